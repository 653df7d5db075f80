// Means of clusters: a counting sort of the rows by label, then each cluster's rows are added up in float64 in the order of their
// index, in strips of columns that stay in cache. Every feature is read once, no strip is touched by two threads.

#include "centroids.hpp"

#include <vector>

#include "parallel.hpp"
#include "rows.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kStrip = 512;

}  // namespace

template <typename Real>
void cluster_centroids(const Real* features, const std::int64_t* labels, std::int64_t rows, std::int64_t width,
                       std::int64_t clusters, Real* out, int threads) {
  std::vector<std::int64_t> begin(clusters + 1, 0), member(rows);
  for (std::int64_t i = 0; i < rows; ++i)
    if (labels[i] >= 0) ++begin[labels[i] + 1];
  for (std::int64_t c = 0; c < clusters; ++c) begin[c + 1] += begin[c];
  std::vector<std::int64_t> cursor(begin.begin(), begin.end() - 1);
  for (std::int64_t i = 0; i < rows; ++i)
    if (labels[i] >= 0) member[cursor[labels[i]]++] = i;

  const std::int64_t strips = (width + kStrip - 1) / kStrip;
  parallel_chunks(clusters * strips, 4, threads, [&](std::int64_t first, std::int64_t last, int) {
    for (std::int64_t task = first; task < last; ++task) {
      const std::int64_t c = task / strips, left = task % strips * kStrip, columns = std::min(kStrip, width - left);
      double sum[kStrip] = {};
      for (std::int64_t m = begin[c]; m < begin[c + 1]; ++m) {
        const Real* row = features + member[m] * width + left;
        if (m + 1 < begin[c + 1]) prefetch(features + member[m + 1] * width + left, columns);
        for (std::int64_t d = 0; d < columns; ++d) sum[d] += row[d];
      }
      const auto count = static_cast<double>(begin[c + 1] - begin[c]);
      for (std::int64_t d = 0; d < columns; ++d) out[c * width + left + d] = static_cast<Real>(sum[d] / count);
    }
  });
}

template void cluster_centroids(const float*, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t, float*, int);
template void cluster_centroids(const double*, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t, double*,
                                int);

}  // namespace salcr
