#pragma once
#include <cstdint>
#include <cstring>

namespace salcr {

template <typename Real>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Bits = std::uint32_t;
  static constexpr float lowest = -87, magic = 12582912;  // 1.5 * 2^23
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int mantissa = 23;
  static constexpr float taylor[] = {1.f / 5040, 1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1, 1};
};

template <>
struct ExpConstants<double> {
  using Bits = std::uint64_t;
  static constexpr double lowest = -708, magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  static constexpr int mantissa = 52;
  static constexpr double taylor[] = {1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880,
                                      1. / 40320,      1. / 5040,      1. / 720,      1. / 120,     1. / 24,
                                      1. / 6,          0.5,            1,             1};
};

// exp(x) to an ulp for x that is at most a little above 0; zero below `lowest`.
// Without a branch, so that the compiler makes vector code of a loop over it.
template <typename Real>
inline Real quick_exp(Real x) {
  using Constants = ExpConstants<Real>;
  using Bits = typename Constants::Bits;
  const Real bounded = x < Constants::lowest ? Constants::lowest : x;
  const Real shifted = bounded * Real(1.4426950408889634) + Constants::magic;  // the rounded integer is in the low bits
  const Real n = shifted - Constants::magic;
  const Real r = (bounded - n * Constants::ln2_high) - n * Constants::ln2_low;  // within 0.35 of 0
  Real power = 0;
  for (const Real coefficient : Constants::taylor) power = power * r + coefficient;
  Bits bits, exponent;
  std::memcpy(&bits, &power, sizeof bits);
  std::memcpy(&exponent, &shifted, sizeof exponent);
  bits += exponent << Constants::mantissa;  // modulo a power of two: the rounded integer may be negative
  bits &= -static_cast<Bits>(x >= Constants::lowest);
  std::memcpy(&power, &bits, sizeof power);
  return power;
}

}  // namespace salcr
