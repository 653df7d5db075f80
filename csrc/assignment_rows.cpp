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

SALCR_FOR_EACH_ISA std::int64_t find_with_room(const double* x, double value, const double* full, std::int64_t count) {
  for (std::int64_t begin = 0; begin < count; begin += 64) {
    const std::int64_t width = std::min<std::int64_t>(64, count - begin);
    const std::uint64_t found = bits_where(width, [&](std::int64_t l) { return x[begin + l] + full[begin + l] == value; });
    if (found != 0) return begin + __builtin_ctzll(found);
  }
  return -1;
}

SALCR_FOR_EACH_ISA double least_with_room(const double* x, const double* full, std::int64_t count) {
  double least = kInfinity;
#pragma omp simd reduction(min : least)
  for (std::int64_t j = 0; j < count; ++j) {
    const double open = x[j] + full[j];
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

}  // namespace salcr
