// Four or eight doubles, or integers as wide, at a time: one register of AVX2, or of AVX-512. GCC and Clang compute with these
// types as with numbers. Not more at a time, since GCC takes wider vectors apart; and written out, since GCC puts branches around
// masked stores into loops of this kind that it vectorises by itself.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "assignment.hpp"
#include "each_isa.hpp"

// These types are passed among inlined functions alone, so that no caller can differ in how they travel.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace salcr {
namespace {

constexpr std::int64_t kMostLanes = 8;

constexpr std::int64_t padded(std::int64_t count) { return (count + kMostLanes - 1) / kMostLanes * kMostLanes; }

template <int kLanes>
struct Vectors;

template <>
struct Vectors<4> {
  using Doubles = double __attribute__((vector_size(32)));
  using Longs = std::int64_t __attribute__((vector_size(32)));
  using Floats = float __attribute__((vector_size(16)));
  static constexpr Longs kLane = {0, 1, 2, 3}, kBit = {1, 2, 4, 8};
};

template <>
struct Vectors<8> {
  using Doubles = double __attribute__((vector_size(64)));
  using Longs = std::int64_t __attribute__((vector_size(64)));
  using Floats = float __attribute__((vector_size(32)));
  static constexpr Longs kLane = {0, 1, 2, 3, 4, 5, 6, 7}, kBit = {1, 2, 4, 8, 16, 32, 64, 128};
};

// Calls body(lanes) with as many lanes as a register of this machine has, compiled for that machine.
#ifdef SALCR_FOR_AVX512
template <typename Body>
SALCR_FOR_AVX512 auto run_by_eight(const Body& body) {
  return body(std::integral_constant<int, 8>());
}
#endif

template <typename Body>
SALCR_FOR_EACH_ISA auto run_by_four(const Body& body) {
  return body(std::integral_constant<int, 4>());
}

template <typename Body>
auto by_widest(const Body& body) {
#ifdef SALCR_FOR_AVX512
  static const bool eight = __builtin_cpu_supports("x86-64-v4");
  if (eight) return run_by_eight(body);
  return run_by_four(body);
#elif defined(__AVX512DQ__)
  return body(std::integral_constant<int, 8>());
#else
  return run_by_four(body);
#endif
}

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

// x[j] = value, by a register: a register that is loaded soon after one of its lanes was stored waits for that.
template <int kLanes>
[[gnu::always_inline]] inline void store_lane(double* x, std::int64_t j, double value) {
  using Doubles = typename Vectors<kLanes>::Doubles;
  const std::int64_t first = j / kLanes * kLanes;
  store(x + first, Vectors<kLanes>::kLane == j - first ? value + Doubles{} : load<Doubles>(x + first));
}

template <int kLanes>
[[gnu::always_inline]] inline auto costs_from(const double* from) {
  return load<typename Vectors<kLanes>::Doubles>(from);
}
template <int kLanes>
[[gnu::always_inline]] inline auto costs_from(const float* from) {
  return __builtin_convertvector(load<typename Vectors<kLanes>::Floats>(from), typename Vectors<kLanes>::Doubles);
}

// Conditions choose between doubles or indices where they stand and are never kept as masks: GCC 12 takes a mask of 512 bits apart,
// since a target that is given by an attribute does not count for its type.
template <typename Lanes>
[[gnu::always_inline]] inline Lanes least_of(const Lanes& x, const Lanes& y) {
  return x < y ? x : y;
}

// The lanes turned round by so many: what the steps of a reduction are made with.
template <typename Lanes>
[[gnu::always_inline]] inline Lanes turned(const Lanes& x, int by) {
  constexpr int kLanes = sizeof(x) / sizeof(double);
#ifdef __clang__
  Lanes lanes;
  for (int l = 0; l < kLanes; ++l) lanes[l] = x[(l + by) % kLanes];
  return lanes;
#else
  return __builtin_shuffle(x, (Vectors<kLanes>::kLane + by) & (kLanes - 1));
#endif
}

// The `count` costs from row[whole] on, which are too few for a register, and infinity behind them. They come from a register
// that ends with the row, so that no other waits for what was stored apart.
template <int kLanes, typename Real>
[[gnu::always_inline]] inline auto last_costs(const Real* row, std::int64_t count, std::int64_t whole, double sign) {
  using Doubles = typename Vectors<kLanes>::Doubles;
  if (whole > 0) {
    const Doubles there = sign * costs_from<kLanes>(row + whole + count - kLanes);
    return Vectors<kLanes>::kLane < count ? turned(there, static_cast<int>(kLanes - count)) : kInfinity + Doubles{};
  }
  double few[kLanes];
  for (std::int64_t l = 0; l < kLanes; ++l) few[l] = l < count ? sign * row[l] : kInfinity;
  return load<Doubles>(few);
}

// Calls see(costs, j, part) for the columns j to j + kLanes - 1 of the row, all others infinite: arrays as long as the row have to
// be padded. What is reduced goes by turns into two parts, so that one does not wait for the other.
template <int kLanes, typename Real, typename See>
[[gnu::always_inline]] inline void by_lanes(const Real* row, std::int64_t cols, double sign, See&& see) {
  const std::int64_t whole = cols / kLanes * kLanes;
  std::int64_t j = 0;
  for (; j + kLanes < whole; j += 2 * kLanes) {
    see(sign * costs_from<kLanes>(row + j), j, 0);
    see(sign * costs_from<kLanes>(row + j + kLanes), j + kLanes, 1);
  }
  if (j < whole) see(sign * costs_from<kLanes>(row + j), j, 0);
  if (whole == cols) return;
  see(last_costs<kLanes>(row, cols - whole, whole, sign), whole, 1);
}

template <typename Doubles>
[[gnu::always_inline]] inline bool all_zero(const Doubles& x) {
  Doubles sum = x;
  for (int by = sizeof(x) / sizeof(double) / 2; by > 0; by /= 2) sum += turned(sum, by);
  return sum[0] == 0.0;
}

}  // namespace
}  // namespace salcr
