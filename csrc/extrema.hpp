// std::max and std::min by value, for loops marked `omp simd`: with -fno-strict-overflow, with which Python 3.12 and newer build,
// GCC 12 confuses references to numbers that such a loop has just made, and keeps the wrong one.
#pragma once

namespace salcr {

template <typename Real>
inline Real larger(Real a, Real b) {
  return a < b ? b : a;
}

template <typename Real>
inline Real smaller(Real a, Real b) {
  return b < a ? b : a;
}

}  // namespace salcr
