// The merge of every lane's value, in every lane, for the types of problem.cuh: by the warp's own reductions of integers
// (redux, since Ampere), a few instructions where exchanges of all words in five rounds would be a hundred.
#pragma once

namespace salcr {

// Bits in the order of the numbers; -0 is 0.
__device__ inline unsigned long long key_of(double x) {
  const long long bits = __double_as_longlong(x + 0.0);
  return static_cast<unsigned long long>(bits ^ (bits >> 63 | (1ll << 63)));
}

__device__ inline double number_of(unsigned long long key) {
  const long long bits = static_cast<long long>(key);
  return __longlong_as_double(bits ^ (~(bits >> 63) | (1ll << 63)));
}

__device__ inline unsigned smallest_in_warp(unsigned x) { return __reduce_min_sync(kAllLanes, x); }

__device__ inline unsigned long long smallest_in_warp(unsigned long long key) {
  const unsigned high = key >> 32, low = static_cast<unsigned>(key);
  const unsigned highest = smallest_in_warp(high);
  return static_cast<unsigned long long>(highest) << 32 | smallest_in_warp(high == highest ? low : ~0u);
}

// That of the lanes for which `counts`.
__device__ inline int smallest_column(bool counts, int column) {
  return static_cast<int>(smallest_in_warp(static_cast<unsigned>(counts ? column : Candidate::none().column)));
}

__device__ inline Candidate merged_in_warp(Candidate x) {
  const unsigned long long own = key_of(x.label), smallest = smallest_in_warp(own);
  return {number_of(smallest), smallest_column(own == smallest, x.column)};
}

__device__ inline Offer merged_in_warp(Offer x) { return {merged_in_warp(x.room), merged_in_warp(x.next)}; }

__device__ inline Count merged_in_warp(Count x) {
  return {static_cast<int>(__reduce_add_sync(kAllLanes, static_cast<unsigned>(x.value)))};
}

__device__ inline BestTwo merged_in_warp(BestTwo x) {
  const unsigned long long own = key_of(x.first), first = smallest_in_warp(own);
  const unsigned rank = smallest_in_warp(own == first ? x.rank : BestTwo::none().rank);
  const bool is_best = own == first && x.rank == rank;
  const unsigned long long second = smallest_in_warp(is_best ? key_of(x.second) : own);
  return {number_of(first), number_of(second), rank, smallest_column(is_best, x.column)};
}

}  // namespace salcr
