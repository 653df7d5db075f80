// The sparse half of the contrast with sets of memory rows: what concerns the positives (docs/method.md, "GPCR").
//
// A feature row meets only the few memory rows that its set names. Eager PyTorch gathers them into [rows, set_width, width],
// padding included; here each is read where it lies: once forward (its logit), twice backward (its logit, its pull; the
// second time from cache). Rows are independent; a row's sums are taken in the order of its set.

#include "instance_memory_contrast.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "parallel.hpp"
#include "rows.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kRows = 16;  // rows that a thread takes at a time

// Logits of the positives of a row into `logits`; returns their log-sum-exp.
template <typename Real>
double row_lse(const SetContrast& size, const Real* x, const Real* memory, const std::int64_t* positives, double scale,
               std::vector<double>& logits) {
  logits.clear();
  double high = -std::numeric_limits<double>::infinity();
  for (std::int64_t m = 0; m < size.set_width && positives[m] >= 0; ++m) {
    logits.push_back(dot(x, memory + positives[m] * size.width, size.width) * scale / size.temperature);
    high = std::max(high, logits.back());
  }
  double sum = 0;
  for (double logit : logits) sum += std::exp(logit - high);
  return high + std::log(sum);
}

}  // namespace

template <typename Real>
void positives_lse(const SetContrast& size, const Real* features, const Real* memory, const std::int64_t* positives,
                   Real* near) {
  parallel_chunks(size.banks * size.rows, kRows, size.threads, [&](std::int64_t begin, std::int64_t end, int) {
    std::vector<double> logits;
    for (std::int64_t b = begin; b < end; ++b) {
      const Real* x = features + b * size.width;
      const Real* bank = memory + b / size.rows * size.columns * size.width;
      const double scale = inverse_norm(dot(x, x, size.width));
      near[b] = static_cast<Real>(row_lse(size, x, bank, positives + b * size.set_width, scale, logits));
    }
  });
}

template <typename Real>
void set_contrast_backward(const SetContrast& size, const Real* features, const Real* memory,
                           const std::int64_t* positives, const Real* pull, const Real* weight, Real* gradient) {
  parallel_chunks(size.banks * size.rows, kRows, size.threads, [&](std::int64_t begin, std::int64_t end, int) {
    std::vector<double> logits;
    for (std::int64_t b = begin; b < end; ++b) {
      const Real* x = features + b * size.width;
      const Real* bank = memory + b / size.rows * size.columns * size.width;
      const std::int64_t* set = positives + b * size.set_width;
      Real* out = gradient + b * size.width;
      if (size.set_width == 0 || set[0] < 0) {
        std::fill(out, out + size.width, Real(0));
        continue;
      }
      const double scale = inverse_norm(dot(x, x, size.width));
      const double near = row_lse(size, x, bank, set, scale, logits);
      std::copy(pull + b * size.width, pull + (b + 1) * size.width, out);
      for (std::size_t m = 0; m < logits.size(); ++m) {
        const Real share = static_cast<Real>(std::exp(logits[m] - near));
        const Real* row = bank + set[m] * size.width;
#pragma omp simd
        for (std::int64_t d = 0; d < size.width; ++d) out[d] -= share * row[d];
      }
      through_normalisation(out, x, scale, weight[b] / size.temperature, size.width);
    }
  });
}

template void positives_lse<float>(const SetContrast&, const float*, const float*, const std::int64_t*, float*);
template void positives_lse<double>(const SetContrast&, const double*, const double*, const std::int64_t*, double*);
template void set_contrast_backward<float>(const SetContrast&, const float*, const float*, const std::int64_t*,
                                           const float*, const float*, float*);
template void set_contrast_backward<double>(const SetContrast&, const double*, const double*, const std::int64_t*,
                                            const double*, const double*, double*);

}  // namespace salcr
