#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

namespace salcr {

constexpr double kTiny = 1e-12;      // torch.nn.functional.normalize's eps
constexpr std::int64_t kBlock = 64;  // sums are of the rows' own precision within a block, double between blocks

template <typename Real>
double dot(const Real* x, const Real* y, std::int64_t width) {
  double sum = 0;
  for (std::int64_t begin = 0; begin < width; begin += kBlock) {
    const std::int64_t end = std::min(begin + kBlock, width);
    Real part = 0;
#pragma omp simd reduction(+ : part)
    for (std::int64_t d = begin; d < end; ++d) part += x[d] * y[d];
    sum += part;
  }
  return sum;
}

// 1 / max(norm, kTiny) from the square of a norm.
inline double inverse_norm(double square) { return 1.0 / std::max(std::sqrt(square), kTiny); }

}  // namespace salcr
