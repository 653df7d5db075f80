#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace salcr {

constexpr double kTiny = 1e-12;       // torch.nn.functional.normalize's eps
constexpr std::int64_t kSums = 64;    // running sums of a row, so that additions need not wait for each other
constexpr std::int64_t kBlock = 4096; // terms that go into them before they are added up in double

// Bring a row into the cache while another is worked on.
template <typename Real>
inline void prefetch(const Real* row, std::int64_t width) {
  constexpr std::int64_t kLine = 64 / sizeof(Real);
  for (std::int64_t d = 0; d < width; d += kLine) __builtin_prefetch(row + d);
}

// Sum over d of term(d), the terms in the rows' own precision. The order of additions depends on the width only.
template <typename Real, typename Term>
inline double row_sum(std::int64_t width, Term term) {
  double sum = 0;
  std::int64_t d = 0;
  while (d + kSums <= width) {
    Real sums[kSums] = {};
    const std::int64_t end = std::min(d + kBlock, d + (width - d) / kSums * kSums);
    for (; d < end; d += kSums) {
#pragma omp simd
      for (std::int64_t n = 0; n < kSums; ++n) sums[n] += term(d + n);
    }
    for (std::int64_t n = 0; n < kSums; ++n) sum += sums[n];
  }
  for (; d < width; ++d) sum += term(d);
  return sum;
}

template <typename Real>
inline double dot(const Real* x, const Real* y, std::int64_t width) {
  return row_sum<Real>(width, [=](std::int64_t d) { return x[d] * y[d]; });
}

// As dot, but the sums are added up as a tree of float32: many short products.
inline float quick_dot(const float* x, const float* y, std::int64_t width) {
  double total = 0;
  std::int64_t d = 0;
  while (d + kSums <= width) {
    float sums[kSums] = {};
    const std::int64_t end = std::min(d + kBlock, d + (width - d) / kSums * kSums);
    for (; d < end; d += kSums) {
#pragma omp simd
      for (std::int64_t n = 0; n < kSums; ++n) sums[n] += x[d + n] * y[d + n];
    }
    for (std::int64_t half = kSums / 2; half; half /= 2)
      for (std::int64_t n = 0; n < half; ++n) sums[n] += sums[n + half];
    total += sums[0];
  }
  for (; d < width; ++d) total += x[d] * y[d];
  return static_cast<float>(total);
}

// 1 / max(norm, kTiny) from the square of a norm; NaN where that has overflowed, so that no row of zeros comes of it.
inline double inverse_norm(double square) {
  return std::isinf(square) ? std::numeric_limits<double>::quiet_NaN() : 1.0 / std::max(std::sqrt(square), kTiny);
}

// From the gradient of a unit row x * scale to that of x, times factor; in place.
template <typename Real>
inline void through_normalisation(Real* gradient, const Real* x, double scale, double factor, std::int64_t width) {
  const Real along = static_cast<Real>(dot(gradient, x, width) * scale * scale);
  const Real times = static_cast<Real>(factor * scale);
#pragma omp simd
  for (std::int64_t d = 0; d < width; ++d) gradient[d] = (gradient[d] - x[d] * along) * times;
}

}  // namespace salcr
