// The momentum update of cluster memories, one sample after the other (docs/method.md, "Memory update").
//
// Samples of different classes commute and samples of one class do not, so a class of a bank is the unit of parallel work:
// its samples are visited in the given order while its row stays in cache. A sample costs two sweeps: its norm, and the blend
// with the sum of the new row's squares. The row is not divided by its norm: that factor is carried along into the next
// blend and multiplied in after the last. A feature row is fetched from memory once, while the sample before it is worked
// on; the touched memory rows are read and written once.

#include "cluster_memory_update.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "parallel.hpp"
#include "rows.hpp"

namespace salcr {
namespace {

// row = keep * row + take * x; returns the square of its new norm.
template <typename Real>
double blend(Real* __restrict__ row, const Real* __restrict__ x, Real keep, Real take, std::int64_t width) {
  return row_sum<Real>(width, [=](std::int64_t d) {
    row[d] = keep * row[d] + take * x[d];
    return row[d] * row[d];
  });
}

// The first sample of [begin, end) whose feature row has the smallest cosine to `row`. One that is NaN counts as the
// smallest, so that the row will show it.
template <typename Real>
const std::int64_t* hardest_of(const std::int64_t* begin, const std::int64_t* end, const Real* features, const Real* row,
                               std::int64_t width) {
  const std::int64_t* found = begin;
  double smallest = std::numeric_limits<double>::infinity();
  for (const std::int64_t* sample = begin; sample != end; ++sample) {
    const Real* x = features + *sample * width;
    if (sample + 1 != end) prefetch(features + sample[1] * width, width);
    const double cosine = dot(x, row, width) * inverse_norm(dot(x, x, width));
    if (std::isnan(cosine)) return sample;
    if (cosine < smallest) {
      smallest = cosine;
      found = sample;
    }
  }
  return found;
}

}  // namespace

template <typename Real>
void update_cluster_memory(Real* memory, const Real* features, const std::int64_t* targets, const std::int64_t* order,
                           std::int64_t banks, std::int64_t classes, std::int64_t samples, std::int64_t width,
                           double momentum, bool hardest, int threads) {
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

  parallel_chunks(slots, 4, threads, [&](std::int64_t first, std::int64_t last, int) {
    for (std::int64_t s = first; s < last; ++s) {
      if (begin[s] == begin[s + 1]) continue;
      Real* row = memory + s * width;
      const std::int64_t* sample = member.data() + begin[s];
      const std::int64_t* end = member.data() + begin[s + 1];
      if (hardest) {
        sample = hardest_of(sample, end, features, row, width);
        end = sample + 1;
      }
      double scale = 1;
      for (; sample != end; ++sample) {
        const Real* x = features + *sample * width;
        if (sample + 1 != end) prefetch(features + sample[1] * width, width);
        const Real keep = static_cast<Real>(momentum * scale);
        const Real take = static_cast<Real>((1 - momentum) * inverse_norm(dot(x, x, width)));
        scale = inverse_norm(blend(row, x, keep, take, width));
      }
#pragma omp simd
      for (std::int64_t d = 0; d < width; ++d) row[d] = static_cast<Real>(row[d] * scale);
    }
  });
}

template void update_cluster_memory<float>(float*, const float*, const std::int64_t*, const std::int64_t*, std::int64_t,
                                           std::int64_t, std::int64_t, std::int64_t, double, bool, int);
template void update_cluster_memory<double>(double*, const double*, const std::int64_t*, const std::int64_t*,
                                            std::int64_t, std::int64_t, std::int64_t, std::int64_t, double, bool, int);

}  // namespace salcr
