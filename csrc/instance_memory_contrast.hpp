#pragma once
#include <cstdint>

namespace salcr {

// Sizes of a contrast of feature rows with sets of memory rows (docs/method.md, "GPCR"). Row-major arrays: features and pull
// [banks, rows, width], memory [banks, columns, width], positives [banks, rows, set_width] (negative: padding, at the end),
// and one number a row [banks, rows]. The caller has checked that positives < columns.
struct SetContrast {
  std::int64_t banks, rows, columns, width, set_width;
  double temperature;
  int threads;
};

// near[b] = LSE of the logits of the positives of row b; minus infinity where it has none.
template <typename Real>
void positives_lse(const SetContrast& size, const Real* features, const Real* memory, const std::int64_t* positives,
                   Real* near);

// Gradient for the features of sum_b weight[b] * (LSE(all) - LSE(positives)), where pull = softmax(all) @ memory.
template <typename Real>
void set_contrast_backward(const SetContrast& size, const Real* features, const Real* memory,
                           const std::int64_t* positives, const Real* pull, const Real* weight, Real* gradient);

}  // namespace salcr
