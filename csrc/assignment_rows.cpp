// Rows are read from L1 or L2, or once from memory. What is looked for by value is found by blocks, of which only one that holds it
// is looked at closely; minima go by lanes, which are merged in the end.

#include "assignment_rows.hpp"

#include <algorithm>

#include "each_isa.hpp"

namespace salcr {
namespace {

// The first of [begin, end) that is_it, or -1.
template <typename Is>
inline std::int64_t find_by_blocks(std::int64_t begin, std::int64_t end, Is&& is_it) {
  constexpr std::int64_t kBlock = 32;
  for (std::int64_t j = begin; j < end; j += kBlock) {
    const int width = static_cast<int>(std::min(kBlock, end - j));
    int hits = 0;
#pragma omp simd reduction(+ : hits)
    for (int l = 0; l < width; ++l) hits += is_it(j + l);
    if (hits == 0) continue;
    while (!is_it(j)) ++j;
    return j;
  }
  return -1;
}

}  // namespace

template <typename Real>
SALCR_FOR_EACH_ISA bool is_legal(Row<Real> row) {
  int bad = 0;
#pragma omp simd reduction(+ : bad)
  for (std::int64_t j = 0; j < row.cols; ++j) bad += !(row.sign * row.cost[j] > -kInfinity);
  return bad == 0;
}

template <typename Real>
SALCR_FOR_EACH_ISA bool lower_minima(const Costs<Real>& costs, std::int64_t i, double shift, double* minima, std::int64_t* cheapest) {
  const Real* const cost = costs.row(i);
  const double sign = costs.sign;
  const std::int64_t cols = costs.cols;
  std::int64_t bad = 0;
#pragma omp simd reduction(+ : bad)
  for (std::int64_t j = 0; j < cols; ++j) {
    const double x = sign * cost[j] - shift;
    const bool lower = x < minima[j];
    bad += !(x > -kInfinity);
    cheapest[j] = lower ? i : cheapest[j];
    minima[j] = lower ? x : minima[j];
  }
  return bad == 0;
}

template <typename Real>
SALCR_FOR_EACH_ISA TwoLeast two_least(Row<Real> row) {
  constexpr int kLanes = 16;
  double least[kLanes], second[kLanes];
  std::fill_n(least, kLanes, kInfinity);
  std::fill_n(second, kLanes, kInfinity);
  const std::int64_t whole = row.cols / kLanes * kLanes;
  const auto see = [&](int l, double x) {
    const double other = x > least[l] ? x : least[l];
    second[l] = other < second[l] ? other : second[l];
    least[l] = x < least[l] ? x : least[l];
  };
  for (std::int64_t j = 0; j < whole; j += kLanes)
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) see(l, row(j + l));
  for (std::int64_t j = whole; j < row.cols; ++j) see(static_cast<int>(j - whole), row(j));
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) {
      second[l] = std::min(second[l], second[l + half]);
      see(l, least[l + half]);
    }
  return {least[0], second[0]};
}

template <typename Real>
SALCR_FOR_EACH_ISA std::int64_t find_equal(Row<Real> row, double value, std::int64_t begin, std::int64_t end, const std::int32_t* room) {
  if (room == nullptr) return find_by_blocks(begin, end, [&](std::int64_t j) { return row(j) == value; });
  return find_by_blocks(begin, end, [&](std::int64_t j) { return (row(j) == value) & (room[j] > 0); });
}

template <typename Real>
SALCR_FOR_EACH_ISA void mark_equal(Row<Real> row, double value, std::uint64_t* bits) {
  for (std::int64_t begin = 0; begin < row.cols; begin += 64) {
    const std::int64_t width = std::min<std::int64_t>(64, row.cols - begin);
    std::uint64_t word = 0;
#pragma omp simd reduction(| : word)
    for (std::int64_t l = 0; l < width; ++l) word |= static_cast<std::uint64_t>(row(begin + l) == value) << l;
    bits[begin / 64] = word;
  }
}

template <typename Real>
SALCR_FOR_EACH_ISA double relax(Row<Real> row, double offset, std::int64_t from, bool first, double* distance, std::int64_t* source) {
  double least = kInfinity;
  if (first) {
    std::fill_n(distance, row.cols, kInfinity);
    std::fill_n(source, row.cols, from);
  }
#pragma omp simd reduction(min : least)
  for (std::int64_t j = 0; j < row.cols; ++j) {
    const double x = offset + row(j);
    const bool nearer = x < distance[j];
    const double now = nearer ? x : distance[j];
    distance[j] = now;
    source[j] = nearer ? from : source[j];
    const double open = now > -kInfinity ? now : kInfinity;
    least = open < least ? open : least;
  }
  return least;
}

SALCR_FOR_EACH_ISA std::int64_t find_value(const double* x, double value, std::int64_t begin, std::int64_t end) {
  return find_by_blocks(begin, end, [&](std::int64_t j) { return x[j] == value; });
}

SALCR_FOR_EACH_ISA double least_with_room(const double* x, const std::int32_t* room, std::int64_t count) {
  double least = kInfinity;
#pragma omp simd reduction(min : least)
  for (std::int64_t j = 0; j < count; ++j) {
    const double open = room[j] > 0 ? x[j] : kInfinity;
    least = open < least ? open : least;
  }
  return least;
}

SALCR_FOR_EACH_ISA std::int64_t find_nearer(const double* x, double offset, const double* distance, double bound, std::int64_t begin,
                                            std::int64_t end) {
  return find_by_blocks(begin, end, [&](std::int64_t j) {
    const double there = offset + x[j];
    return (there < distance[j]) & (there < bound);
  });
}

#define SALCR_INSTANTIATE(Real)                                                                                                  \
  template bool is_legal(Row<Real>);                                                                                      \
  template bool lower_minima(const Costs<Real>&, std::int64_t, double, double*, std::int64_t*);                                  \
  template TwoLeast two_least(Row<Real>);                                                                                 \
  template std::int64_t find_equal(Row<Real>, double, std::int64_t, std::int64_t, const std::int32_t*);                   \
  template void mark_equal(Row<Real>, double, std::uint64_t*);                                                            \
  template double relax(Row<Real>, double, std::int64_t, bool, double*, std::int64_t*);
SALCR_INSTANTIATE(float)
SALCR_INSTANTIATE(double)
#undef SALCR_INSTANTIATE

}  // namespace salcr
