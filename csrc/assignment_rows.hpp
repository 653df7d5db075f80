// What a solver does with one row. Rows are read from L1 or L2, or once from memory. Arrays over columns are padded.
#pragma once
#include <algorithm>
#include <cstdint>

#include "assignment.hpp"
#include "assignment_vectors.hpp"

namespace salcr {

// Row i of the costs c_j, whose reduced costs are c_j - v_j with the prices v.
template <typename Real>
struct Row {
  const Real* cost;
  const double* prices;
  std::int64_t cols;
  double sign;

  Row(const Costs<Real>& costs, const double* its_prices, std::int64_t i)
      : cost(costs.row(i)), prices(its_prices), cols(costs.cols), sign(costs.sign) {}

  double operator()(std::int64_t j) const { return sign * cost[j] - prices[j]; }
};

struct TwoLeast {
  double least, second;  // equal where two columns tie
  std::int64_t column;   // of the least, one of them where columns tie
  bool legal;            // false only where that was asked: an entry is NaN or -inf
};

// What a sweep keeps of a row for its next bid: the least reduced cost that each lane of both parts saw (infinite if none) and its
// column; and `floor`, the least of all other columns, or -inf where two columns tie for the least of all.
struct Leaders {
  double reduced[2 * kMostLanes];
  std::int64_t column[2 * kMostLanes];
  double floor;
};

struct Nearest {
  double distance, with_room;  // the least of all open columns, and of those with room
  std::int64_t column;         // the first at the distance
};

// For each instruction set (assignment_rows.cpp).

// Of a search's arrays: the first that is the finite `value` and has room, or -1.
std::int64_t find_with_room(const double* x, double value, const double* full, std::int64_t count);

// The least of those with room.
double least_with_room(const double* x, const double* full, std::int64_t count);

// The first of [begin, end) where offset + x[j] is below distance[j] and below bound, or -1.
std::int64_t find_nearer(const double* x, double offset, const double* distance, double bound, std::int64_t begin,
                         std::int64_t end);

// By so many lanes, to be called in by_widest(). Minima go by lanes, which are merged in the end; results are the same however
// many there are.
namespace {

// No entry is NaN or -inf.
template <int kLanes, typename Real>
inline bool is_legal(const Row<Real>& row) {
  using Doubles = typename Vectors<kLanes>::Doubles;
  Doubles bad = {};
  by_lanes<kLanes>(row.cost, row.cols, row.sign,
                   [&](const Doubles& cost, std::int64_t, int) { bad = cost > -kInfinity ? bad : cost; });
  return all_zero(bad);
}

// The minimum of each column, and the first row that has it; of the costs less shifts[row] if there are shifts. Returns whether
// no entry is NaN or -inf.
template <int kLanes, typename Real>
inline bool column_minima(const Costs<Real>& costs, const double* shifts, double* minima, std::int64_t* cheapest) {
  using Doubles = typename Vectors<kLanes>::Doubles;
  using Longs = typename Vectors<kLanes>::Longs;
  std::fill_n(minima, padded(costs.cols), kInfinity);
  Doubles bad = {};
  for (std::int64_t i = 0; i < costs.rows; ++i) {
    const double shift = shifts == nullptr ? 0.0 : shifts[i];
    by_lanes<kLanes>(costs.row(i), costs.cols, costs.sign, [&](const Doubles& cost, std::int64_t j, int) {
      const Doubles x = cost - shift, before = load<Doubles>(minima + j);
      bad = x > -kInfinity ? bad : x;
      store(cheapest + j, x < before ? i + Longs{} : load<Longs>(cheapest + j));
      store(minima + j, least_of(x, before));
    });
  }
  return all_zero(bad);
}

// The two least reduced costs. kChecked: looks whether an entry is NaN or -inf. kLed: writes `leaders`.
template <int kLanes, bool kChecked, bool kLed = false, typename Real>
inline TwoLeast two_least(const Row<Real>& row, [[maybe_unused]] Leaders* leaders = nullptr) {
  using Doubles = typename Vectors<kLanes>::Doubles;
  using Longs = typename Vectors<kLanes>::Longs;
  const Doubles none = kInfinity + Doubles{};
  struct {
    Doubles least, second;
    Longs column;
  } parts[2] = {{none, none, {}}, {none, none, {}}};
  Doubles bad = {};
  const auto see = [&](const Doubles& x, const Longs& j, int part) {
    auto& [least, second, column] = parts[part];
    const Doubles other = x > least ? x : least;
    second = least_of(other, second);
    column = x < least ? j : column;
    least = least_of(x, least);
  };
  by_lanes<kLanes>(row.cost, row.cols, row.sign, [&](const Doubles& cost, std::int64_t j, int part) {
    if (kChecked) bad = cost > -kInfinity ? bad : cost;
    see(cost - load<Doubles>(row.prices + j), j + Vectors<kLanes>::kLane, part);
  });
  auto& [least, second, column] = parts[0];
  second = least_of(second, parts[1].second);
  if constexpr (kLed) {
    for (int part = 0; part < 2; ++part) {
      store(leaders->reduced + part * kLanes, parts[part].least);
      store(leaders->column + part * kLanes, parts[part].column);
    }
    Doubles floor = second;
    for (int by = kLanes / 2; by > 0; by /= 2) floor = least_of(floor, turned(floor, by));
    leaders->floor = floor[0];
  }
  see(parts[1].least, parts[1].column, 0);
  for (int by = kLanes / 2; by > 0; by /= 2) {
    second = least_of(second, turned(second, by));
    see(turned(least, by), turned(column, by), 0);
  }
  if (kLed && !(least[0] < second[0])) leaders->floor = -kInfinity;
  return {least[0], second[0], column[0], !kChecked || all_zero(bad)};
}

// Bit l says whether column begin + l has this finite reduced cost, for the 64 columns from `begin` on or as many as there are.
template <int kLanes, typename Real>
inline std::uint64_t equal_bits(const Row<Real>& row, double value, std::int64_t begin) {
  using Doubles = typename Vectors<kLanes>::Doubles;
  using Longs = typename Vectors<kLanes>::Longs;
  const std::int64_t width = std::min<std::int64_t>(row.cols - begin, 64);
  Longs parts[2] = {};
  by_lanes<kLanes>(row.cost + begin, width, row.sign, [&](const Doubles& cost, std::int64_t j, int part) {
    const Doubles x = cost - load<Doubles>(row.prices + begin + j);
    parts[part] |= x == value ? Vectors<kLanes>::kBit << j : Longs{};
  });
  Longs word = parts[0] | parts[1];
  for (int by = kLanes / 2; by > 0; by /= 2) word |= turned(word, by);
  return word[0];
}

// Of the columns with this finite reduced cost, from `start` on and round: the first that is open, or just the first where none
// is; -1 without any.
template <int kLanes, typename Real>
inline std::int64_t find_round(const Row<Real>& row, double value, std::int64_t start, const std::uint64_t* open) {
  const std::int64_t words = (row.cols + 63) / 64, first = start / 64;
  const std::uint64_t from_start = ~std::uint64_t{0} << start % 64;
  if (row(start) == value && (open[first] >> start % 64 & 1) != 0) return start;
  std::uint64_t equal_in_first = 0;
  std::int64_t taken = -1;
  for (std::int64_t n = 0; n <= words; ++n) {
    const std::int64_t w = first + n < words ? first + n : first + n - words;
    std::uint64_t equal = n < words ? equal_bits<kLanes>(row, value, 64 * w) : equal_in_first & ~from_start;
    if (n == 0) equal_in_first = equal, equal &= from_start;
    if ((equal & open[w]) != 0) return 64 * w + __builtin_ctzll(equal & open[w]);
    if (taken < 0 && equal != 0) taken = 64 * w + __builtin_ctzll(equal);
  }
  return taken;
}

// Through this row a column is at the distance `offset` plus its reduced cost. Where that is nearer than before it becomes the
// column's distance, and `from` its source. A column whose distance is final has the price -inf here, so that it is infinitely
// far; `full` is infinity for a column without room.
template <int kLanes, typename Real>
inline Nearest relax(const Row<Real>& row, double offset, std::int64_t from, const double* full, double* distance,
                     std::int64_t* source) {
  using Doubles = typename Vectors<kLanes>::Doubles;
  using Longs = typename Vectors<kLanes>::Longs;
  const Doubles none = kInfinity + Doubles{};
  struct {
    Doubles least, with_room;
    Longs column;
  } parts[2] = {{none, none, {}}, {none, none, {}}};
  by_lanes<kLanes>(row.cost, row.cols, row.sign, [&](const Doubles& cost, std::int64_t j, int part) {
    auto& [least, with_room, column] = parts[part];
    const Doubles x = offset + (cost - load<Doubles>(row.prices + j)), before = load<Doubles>(distance + j);
    const Doubles now = least_of(x, before);
    store(distance + j, now);
    store(source + j, x < before ? from + Longs{} : load<Longs>(source + j));
    column = now < least ? j + Vectors<kLanes>::kLane : column;
    least = least_of(now, least);
    with_room = least_of(now + load<Doubles>(full + j), with_room);
  });
  auto& [least, with_room, column] = parts[0];
  const auto merge = [&least = least, &with_room = with_room, &column = column](  // [&] takes no binding in C++17
                         const Doubles& other, const Doubles& other_with_room, const Longs& there) {
    const Longs first = least_of(there, column);
    column = other < least ? there : other == least ? first : column;
    least = least_of(other, least);
    with_room = least_of(other_with_room, with_room);
  };
  merge(parts[1].least, parts[1].with_room, parts[1].column);
  for (int by = kLanes / 2; by > 0; by /= 2) merge(turned(least, by), turned(with_room, by), turned(column, by));
  return {least[0], with_room[0], column[0]};
}

}  // namespace
}  // namespace salcr
