// The momentum update of cluster memories, one sample after the other (SPEC 3).
//
// Samples of different classes commute and samples of one class do not, so a class of a bank is the unit of parallel work:
// its samples are visited in the given order while its row stays in cache. Reads each feature row twice (norm, blend), reads
// and writes each touched memory row once per sample. Sums are accumulated in double, so the result does not depend on
// vectorisation beyond the last bit of float32.

#include "memory_update.hpp"

#include <cmath>
#include <vector>

namespace salcr {
namespace {

constexpr double kTiny = 1e-12;  // torch.nn.functional.normalize's eps

template <typename Real>
double inverse_norm(const Real* row, std::int64_t width) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t d = 0; d < width; ++d) sum += static_cast<double>(row[d]) * row[d];
  const double norm = std::sqrt(sum);
  return 1.0 / (norm > kTiny ? norm : kTiny);
}

}  // namespace

template <typename Real>
void update_cluster_memory(Real* memory, const Real* features, const std::int64_t* targets, const std::int64_t* order,
                           std::int64_t banks, std::int64_t classes, std::int64_t samples, std::int64_t width,
                           double momentum, int threads) {
  // Counting sort of the samples by (bank, class), keeping the given order within a class.
  const std::int64_t slots = banks * classes;
  std::vector<std::int64_t> begin(slots + 1, 0), member(banks * samples);
  for (std::int64_t i = 0; i < banks * samples; ++i)
    if (targets[i] >= 0) ++begin[i / samples * classes + targets[i] + 1];
  for (std::int64_t s = 0; s < slots; ++s) begin[s + 1] += begin[s];
  std::vector<std::int64_t> cursor(begin.begin(), begin.end() - 1);
  for (std::int64_t bank = 0; bank < banks; ++bank)
    for (std::int64_t n = 0; n < samples; ++n) {
      const std::int64_t i = bank * samples + order[n];
      if (targets[i] >= 0) member[cursor[bank * classes + targets[i]]++] = i;
    }

#pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
  for (std::int64_t s = 0; s < slots; ++s) {
    Real* row = memory + s * width;
    for (std::int64_t m = begin[s]; m < begin[s + 1]; ++m) {
      const Real* x = features + member[m] * width;
      const double keep = momentum, take = (1 - momentum) * inverse_norm(x, width);
      for (std::int64_t d = 0; d < width; ++d) row[d] = static_cast<Real>(keep * row[d] + take * x[d]);
      const double scale = inverse_norm(row, width);
      for (std::int64_t d = 0; d < width; ++d) row[d] = static_cast<Real>(row[d] * scale);
    }
  }
}

template void update_cluster_memory<float>(float*, const float*, const std::int64_t*, const std::int64_t*, std::int64_t,
                                           std::int64_t, std::int64_t, std::int64_t, double, int);
template void update_cluster_memory<double>(double*, const double*, const std::int64_t*, const std::int64_t*,
                                            std::int64_t, std::int64_t, std::int64_t, std::int64_t, double, int);

}  // namespace salcr
