#pragma once
#include <cstdint>
#include <cstring>

namespace salcr {

inline float to_float(float x) { return x; }

// The value of a finite float16, subnormal ones included, whatever the processor does with subnormal float32.
inline float to_float(std::uint16_t half) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(half & 0x7fffu) << 13;
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t normal = magnitude + (112u << 23), subnormal = magnitude + (113u << 23);
  float value, lifted;
  std::memcpy(&value, &normal, sizeof value);
  std::memcpy(&lifted, &subnormal, sizeof lifted);
  value = magnitude < (1u << 23) ? lifted - 0x1p-14f : value;
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits |= sign;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline bool is_finite(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits & 0x7f800000u) != 0x7f800000u;
}

inline bool is_finite(std::uint16_t half) { return (half & 0x7c00u) != 0x7c00u; }

}  // namespace salcr
