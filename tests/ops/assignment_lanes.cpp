// Whether what is done to a row by eight lanes is what four do, ties included, and leaders are what they are said to be. Says
// where it is not.
#include <algorithm>
#include <cstdio>
#include <random>
#include <vector>

#include "assignment_rows.hpp"

namespace {

using namespace salcr;

template <int kLanes>
struct Results {
  std::vector<double> distance, minima;
  std::vector<std::int64_t> source, cheapest;
  Nearest nearest;
  TwoLeast two;
  std::uint64_t equal;
  std::int64_t round;
  bool legal, lowered;

  Results(const Costs<float>& costs, const double* prices, const double* full, const std::uint64_t* open,
          std::vector<double> start)
      : distance(start), minima(start), source(start.size(), -1), cheapest(start.size(), -1) {
    const Row<float> row(costs, prices, 0);
    nearest = relax<kLanes>(row, 1.0, 7, full, distance.data(), source.data());
    two = two_least<kLanes, true>(row);
    const double finite = std::min(two.least, 0.0);
    equal = equal_bits<kLanes>(row, finite, 0);
    round = find_round<kLanes>(row, finite, costs.cols / 2, open);
    legal = is_legal<kLanes>(row);
    const double shifts[] = {1.0, 0.0};
    lowered = column_minima<kLanes>(costs, shifts, minima.data(), cheapest.data());
  }
};

bool same(const Results<4>& x, const Results<8>& y) {
  const bool alone = x.two.least < x.two.second;  // else any column of the least may be named
  return x.distance == y.distance && x.source == y.source && x.nearest.distance == y.nearest.distance &&
         x.nearest.with_room == y.nearest.with_room && x.nearest.column == y.nearest.column && x.two.least == y.two.least &&
         x.two.second == y.two.second && (!alone || x.two.column == y.two.column) && x.two.legal == y.two.legal &&
         x.equal == y.equal && x.round == y.round &&
         x.legal == y.legal && x.two.legal == x.legal && x.minima == y.minima && x.cheapest == y.cheapest &&
         x.lowered == y.lowered;
}

// Whether no column beside the leaders of a sweep is below their floor, and each leader is one column of its reduced cost.
template <int kLanes>
bool lead(const Row<float>& row) {
  Leaders leaders;
  const TwoLeast two = two_least<kLanes, false, true>(row, &leaders);
  std::vector<bool> leads(row.cols, false);
  for (int n = 0; n < 2 * kLanes; ++n) {
    if (leaders.reduced[n] == kInfinity) continue;
    const std::int64_t j = leaders.column[n];
    if (j < 0 || j >= row.cols || leads[j] || row(j) != leaders.reduced[n]) return false;
    leads[j] = true;
  }
  for (std::int64_t j = 0; j < row.cols; ++j)
    if (!leads[j] && row(j) < leaders.floor) return false;
  return two.least < two.second ? leaders.floor >= two.second : leaders.floor == -kInfinity;
}

// What find_round() is to find, column by column.
std::int64_t first_from(const Row<float>& row, double value, std::int64_t start, const std::vector<std::uint64_t>& open) {
  std::int64_t taken = -1;
  for (std::int64_t n = 0; n < row.cols; ++n) {
    const std::int64_t j = (start + n) % row.cols;
    if (row(j) != value) continue;
    if (open[j / 64] >> j % 64 & 1) return j;
    if (taken < 0) taken = j;
  }
  return taken;
}

}  // namespace

int main() {
  std::mt19937 random(0);
  const auto draw = [&](int count) { return static_cast<int>(random() % count); };
  for (int trial = 0; trial < 20000; ++trial) {
    const std::int64_t cols = 1 + draw(70);
    std::vector<float> cost(2 * cols);
    std::vector<double> prices(padded(cols), 0.0), start(padded(cols), kInfinity), full(padded(cols), 0.0);
    std::vector<std::uint64_t> open((cols + 63) / 64, 0);
    for (std::int64_t j = 0; j < cols; ++j) {
      for (float* x : {&cost[j], &cost[cols + j]}) *x = draw(8) == 0 ? kInfinity : static_cast<float>(draw(5) - 2);
      const bool has_room = draw(2), settled = draw(3) == 0;
      prices[j] = settled ? -kInfinity : -draw(3), full[j] = has_room ? 0.0 : kInfinity;
      open[j / 64] |= static_cast<std::uint64_t>(has_room) << j % 64;
      start[j] = settled || draw(2) == 0 ? kInfinity : draw(6) - 2.0;
    }
    const float illegal = draw(2) == 0 ? -kInfinity : std::numeric_limits<float>::quiet_NaN();
    const bool legal = draw(4) != 0;
    std::vector<float> spoilt = cost;
    if (!legal) spoilt[draw(static_cast<int>(cols))] = illegal;
    const Costs<float> costs{cost.data(), 2, cols, cols, 1.0}, marred{spoilt.data(), 1, cols, cols, 1.0};
    const Results<4> four(costs, prices.data(), full.data(), open.data(), start);
    const Results<8> eight(costs, prices.data(), full.data(), open.data(), start);
    const Row<float> row_of_costs(costs, prices.data(), 0), row(marred, prices.data(), 0);
    const std::int64_t round = first_from(row_of_costs, std::min(four.two.least, 0.0), cols / 2, open);
    if (same(four, eight) && lead<4>(row_of_costs) && lead<8>(row_of_costs) && four.round == round &&
        is_legal<4>(row) == legal && is_legal<8>(row) == legal &&
        two_least<4, true>(row).legal == legal && two_least<8, true>(row).legal == legal)
      continue;
    std::printf("trial %d: %lld columns\n", trial, static_cast<long long>(cols));
    return 1;
  }
}
