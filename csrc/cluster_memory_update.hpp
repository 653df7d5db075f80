#pragma once
#include <cstdint>

namespace salcr {

// Sequential momentum update of `banks` cluster memories. Row-major arrays: memory [banks, classes, width],
// features [banks, samples, width], targets [banks, samples] (negative: skipped), order [samples].
// Of a class's samples all count, or where `hardest` only the first in order of smallest cosine to the class's row.
// The caller has checked that targets < classes and that order is a permutation.
template <typename Real>
void update_cluster_memory(Real* memory, const Real* features, const std::int64_t* targets, const std::int64_t* order,
                           std::int64_t banks, std::int64_t classes, std::int64_t samples, std::int64_t width,
                           double momentum, bool hardest, int threads);

}  // namespace salcr
