// Numbers as registers of PTX hold them: 64 bits, of which a type uses the lowest.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

using Bits = std::uint64_t;

struct Fault : std::runtime_error {
  using runtime_error::runtime_error;
};

template <class... Values>
[[noreturn]] void fault(const char* format, Values... values) {
  char text[300];
  std::snprintf(text, sizeof text, format, values...);
  throw Fault(text);
}

// clang-format off
#define SALCR_TYPES(X) X(b8, 1) X(b16, 2) X(b32, 4) X(b64, 8) X(s8, 1) X(s16, 2) X(s32, 4) X(s64, 8) X(u8, 1) X(u16, 2) \
  X(u32, 4) X(u64, 8) X(f16, 2) X(bf16, 2) X(tf32, 4) X(f32, 4) X(f64, 8) X(pred, 1)
// clang-format on
enum class Type {
#define SALCR_NAME(name, size) name,
  SALCR_TYPES(SALCR_NAME)
#undef SALCR_NAME
};

inline int size_of(Type type) {
#define SALCR_SIZE(name, size) size,
  static constexpr int sizes[] = {SALCR_TYPES(SALCR_SIZE)};
#undef SALCR_SIZE
  return sizes[int(type)];
}

inline Bits ones(int bytes) { return bytes == 8 ? ~Bits{0} : (Bits{1} << 8 * bytes) - 1; }

template <class T>
T get(Bits bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// A NaN that is computed has the bits of the GPU's only one.
template <class T>
Bits put(T value) {
  Bits bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  if constexpr (std::is_floating_point_v<T>) {
    if (value != value) bits = ones(sizeof value) >> 1;
  }
  return bits;
}

inline float toward_zero(double x) {
  float y = float(x);
  if (std::isinf(y) && std::isfinite(x)) return std::copysign(std::numeric_limits<float>::max(), y);
  return std::fabs(double(y)) > std::fabs(x) ? std::nextafter(y, 0.0f) : y;
}

// Odd where it is inexact, so that rounding it once more is as rounding x once.
inline float to_odd(double x) {
  const float y = toward_zero(x);
  return double(y) == x || x != x ? y : get<float>(put(y) | 1);
}

inline float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }

inline Bits to_bf16(float x) {
  const Bits bits = put(x);
  return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16 & 0xffff;
}

inline Bits to_f16(float x) {
  if (x != x) return 0x7fff;
  const _Float16 half = _Float16(x);
  std::uint16_t bits;
  std::memcpy(&bits, &half, 2);
  return bits;
}

inline float from_half(Bits bits, Type type) {
  if (type == Type::bf16) return get<float>((bits & 0xffff) << 16);
  return float(get<_Float16>(bits));
}

inline Bits to_half(float x, Type type) { return type == Type::bf16 ? to_bf16(x) : to_f16(x); }

inline float cut_to_tf32(float x) { return get<float>(put(x) & ~Bits{0x1fff}); }

inline bool is_real(Type type) { return type >= Type::f16 && type <= Type::f64; }

inline double real(Bits bits, Type type) {
  if (type == Type::f64) return get<double>(bits);
  return type == Type::f32 || type == Type::tf32 ? get<float>(bits) : from_half(bits, type);
}

// Calls f with a number of the integer type.
template <class F>
auto with_integer(Type type, F f) {
  switch (type) {
    case Type::s8: return f(std::int8_t{});
    case Type::s16: return f(std::int16_t{});
    case Type::s32: return f(std::int32_t{});
    case Type::s64: return f(std::int64_t{});
    case Type::b8:
    case Type::u8:
    case Type::pred: return f(std::uint8_t{});
    case Type::b16:
    case Type::u16: return f(std::uint16_t{});
    case Type::b32:
    case Type::u32: return f(std::uint32_t{});
    case Type::b64:
    case Type::u64: return f(std::uint64_t{});
    default: fault("an integer operation of real numbers");
  }
}

inline __int128 integer(Bits bits, Type type) {
  return with_integer(type, [=](auto kind) { return __int128(get<decltype(kind)>(bits)); });
}
