// What is looked for by value is found as bits of 64 columns at a time.

#include "assignment_rows.hpp"

#include <algorithm>

#include "each_isa.hpp"

namespace salcr {
namespace {

// Bit l says whether is_it(l), for at most 64.
template <typename Is>
inline std::uint64_t bits_where(std::int64_t count, Is&& is_it) {
  std::uint64_t word = 0;
#pragma omp simd reduction(| : word)
  for (std::int64_t l = 0; l < count; ++l) word |= static_cast<std::uint64_t>(is_it(l)) << l;
  return word;
}

}  // namespace

template <typename Real>
SALCR_FOR_EACH_ISA std::int64_t find_round(Row<Real> row, double value, std::int64_t start, const std::int64_t* room) {
  if (row(start) == value && room[start] > 0) return start;
  const std::int64_t words = (row.cols + 63) / 64, first = start / 64;
  const std::uint64_t from_start = ~std::uint64_t{0} << start % 64;
  std::uint64_t equal_in_first = 0;
  std::int64_t taken = -1;
  for (std::int64_t n = 0; n <= words; ++n) {
    const std::int64_t begin = (first + n < words ? first + n : first + n - words) * 64;
    const std::int64_t width = std::min<std::int64_t>(64, row.cols - begin);
    std::uint64_t equal = equal_in_first & ~from_start;
    if (n < words) equal = bits_where(width, [&](std::int64_t l) { return row(begin + l) == value; });
    if (n == 0) equal_in_first = equal, equal &= from_start;
    if (equal == 0) continue;
    const std::uint64_t open = equal & bits_where(width, [&](std::int64_t l) { return room[begin + l] > 0; });
    if (open != 0) return begin + __builtin_ctzll(open);
    if (taken < 0) taken = begin + __builtin_ctzll(equal);
  }
  return taken;
}

template <typename Real>
SALCR_FOR_EACH_ISA void mark_equal(Row<Real> row, double value, std::uint64_t* bits) {
  for (std::int64_t begin = 0; begin < row.cols; begin += 64) {
    const std::int64_t width = std::min<std::int64_t>(64, row.cols - begin);
    bits[begin / 64] = bits_where(width, [&](std::int64_t l) { return row(begin + l) == value; });
  }
}

SALCR_FOR_EACH_ISA std::int64_t find_with_room(const double* x, double value, const std::int64_t* room, std::int64_t count) {
  for (std::int64_t begin = 0; begin < count; begin += 64) {
    const std::int64_t width = std::min<std::int64_t>(64, count - begin);
    const std::uint64_t found =
        bits_where(width, [&](std::int64_t l) { return (x[begin + l] == value) & (room[begin + l] > 0); });
    if (found != 0) return begin + __builtin_ctzll(found);
  }
  return -1;
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
  for (; begin < end; begin += 64) {
    const std::uint64_t found = bits_where(std::min<std::int64_t>(64, end - begin), [&](std::int64_t l) {
      const double there = offset + x[begin + l];
      return (there < distance[begin + l]) & (there < bound);
    });
    if (found != 0) return begin + __builtin_ctzll(found);
  }
  return -1;
}

#define SALCR_INSTANTIATE(Real)                                                                           \
  template std::int64_t find_round(Row<Real>, double, std::int64_t, const std::int64_t*);                \
  template void mark_equal(Row<Real>, double, std::uint64_t*);
SALCR_INSTANTIATE(float)
SALCR_INSTANTIATE(double)
#undef SALCR_INSTANTIATE

}  // namespace salcr
