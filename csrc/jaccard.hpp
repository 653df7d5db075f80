#pragma once
#include <cstdint>
#include <vector>

#include "sparse_rows.hpp"

namespace salcr {

struct Graph {
  std::vector<std::int64_t> pointers, columns;
  std::vector<float> distances;
};

// The Jaccard distances of encodings that are at most `max_distance`, below 1: columns ascending, the diagonal
// (0) included.
template <typename Real>
Graph jaccard_graph(SparseRows<Real> encodings, float max_distance, int threads);

// All of them, into distances [rows, rows].
template <typename Real>
void jaccard_distance(SparseRows<Real> encodings, float* distances, int threads);

}  // namespace salcr
