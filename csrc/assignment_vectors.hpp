// Four doubles, or integers as wide, at a time: one register of AVX2. Eight would be one of AVX-512, but for machines without it
// GCC takes such vectors apart. GCC and Clang compute with these types as with numbers; loops of this kind that it vectorises by
// itself, GCC fills with branches around masked stores.
#pragma once
#include <cstdint>
#include <cstring>

#include "assignment.hpp"

// These types are passed among inlined functions alone, so that no caller can differ in how they travel.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace salcr {
namespace {

constexpr std::int64_t kLanes = 4;

using Doubles = double __attribute__((vector_size(32)));
using Longs = std::int64_t __attribute__((vector_size(32)));
using Floats = float __attribute__((vector_size(16)));

constexpr Longs kLane = {0, 1, 2, 3};

constexpr std::int64_t padded(std::int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

template <typename Lanes>
[[gnu::always_inline]] inline Lanes load(const void* from) {
  Lanes x;
  std::memcpy(&x, from, sizeof(x));
  return x;
}

template <typename Lanes>
[[gnu::always_inline]] inline void store(void* to, const Lanes& x) {
  std::memcpy(to, &x, sizeof(x));
}

[[gnu::always_inline]] inline Doubles costs_from(const double* from) { return load<Doubles>(from); }
[[gnu::always_inline]] inline Doubles costs_from(const float* from) { return __builtin_convertvector(load<Floats>(from), Doubles); }

// Calls see(costs, j, part) for the columns j to j + 3 of the row, all others infinite: arrays as long as the row have to be
// padded. What is reduced goes by turns into two parts, so that one does not wait for the other.
template <typename Real, typename See>
[[gnu::always_inline]] inline void by_lanes(const Real* row, std::int64_t cols, double sign, See&& see) {
  const std::int64_t whole = cols / kLanes * kLanes;
  std::int64_t j = 0;
  for (; j + kLanes < whole; j += 2 * kLanes) {
    see(sign * costs_from(row + j), j, 0);
    see(sign * costs_from(row + j + kLanes), j + kLanes, 1);
  }
  if (j < whole) see(sign * costs_from(row + j), j, 0);
  if (whole == cols) return;
  double tail[kLanes];
  for (std::int64_t l = 0; l < kLanes; ++l) tail[l] = whole + l < cols ? sign * row[whole + l] : kInfinity;
  see(load<Doubles>(tail), whole, 1);
}

[[gnu::always_inline]] inline Doubles least_of(const Doubles& x, const Doubles& y) { return x < y ? x : y; }

// The lanes that follow by so many, and round: what the steps of a reduction are made with.
template <typename Lanes>
[[gnu::always_inline]] inline Lanes turned(const Lanes& x, int by) {
  return __builtin_shuffle(x, (kLane + by) & (kLanes - 1));
}

[[gnu::always_inline]] inline bool any(const Longs& mask) {
  Longs all = mask;
  for (int by = kLanes / 2; by > 0; by /= 2) all |= turned(all, by);
  return all[0] != 0;
}

}  // namespace
}  // namespace salcr
