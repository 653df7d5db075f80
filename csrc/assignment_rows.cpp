// What is looked for by value is found by blocks, of which only one that holds it is looked at closely.

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
SALCR_FOR_EACH_ISA std::int64_t find_equal(Row<Real> row, double value, std::int64_t begin, std::int64_t end,
                                           const std::int64_t* room) {
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

SALCR_FOR_EACH_ISA std::int64_t find_value(const double* x, double value, std::int64_t begin, std::int64_t end) {
  return find_by_blocks(begin, end, [&](std::int64_t j) { return x[j] == value; });
}

SALCR_FOR_EACH_ISA double least_with_room(const double* x, const std::int64_t* room, std::int64_t count) {
  double least = kInfinity;
#pragma omp simd reduction(min : least)
  for (std::int64_t j = 0; j < count; ++j) {
    const double open = room[j] > 0 ? x[j] : kInfinity;
    least = open < least ? open : least;
  }
  return least;
}

SALCR_FOR_EACH_ISA std::int64_t find_nearer(const double* x, double offset, const double* distance, double bound,
                                            std::int64_t begin, std::int64_t end) {
  return find_by_blocks(begin, end, [&](std::int64_t j) {
    const double there = offset + x[j];
    return (there < distance[j]) & (there < bound);
  });
}

#define SALCR_INSTANTIATE(Real)                                                                           \
  template std::int64_t find_equal(Row<Real>, double, std::int64_t, std::int64_t, const std::int64_t*);  \
  template void mark_equal(Row<Real>, double, std::uint64_t*);
SALCR_INSTANTIATE(float)
SALCR_INSTANTIATE(double)
#undef SALCR_INSTANTIATE

}  // namespace salcr
