#pragma once
#include <cstdint>

namespace salcr {

// DBSCAN labels [rows] on given distances, numbered as scikit-learn does (docs/method.md, "DBSCAN").
template <typename Real>
void dbscan_dense(const Real* distances, std::int64_t rows, float eps, std::int64_t min_samples, std::int64_t* labels,
                  int threads);

// The same on CSR rows. A pair without an entry is far, a point without a diagonal entry is its own neighbour. The caller has
// checked pointers and columns.
template <typename Real>
void dbscan_sparse(const std::int64_t* pointers, const std::int64_t* columns, const Real* distances, std::int64_t rows,
                   float eps, std::int64_t min_samples, std::int64_t* labels, int threads);

}  // namespace salcr
