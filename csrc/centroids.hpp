#pragma once
#include <cstdint>

namespace salcr {

// Mean row of every label: features [rows, width], labels [rows] below `clusters` (negative: left out), out
// [clusters, width]. The caller has checked that no cluster is empty.
template <typename Real>
void cluster_centroids(const Real* features, const std::int64_t* labels, std::int64_t rows, std::int64_t width,
                       std::int64_t clusters, Real* out, int threads);

}  // namespace salcr
