#pragma once
#include <cstdint>
#include <vector>

#include "sparse_rows.hpp"

namespace salcr {

struct Graph {
  std::vector<std::int64_t> pointers, columns;
  std::vector<float> distances;
};

struct NearPairs {
  std::vector<std::int32_t> left, right;
};

// The Jaccard distances of encodings that are at most `max_distance`, below 1: columns ascending, the diagonal
// (0) included.
template <typename Real>
Graph jaccard_graph(SparseRows<Real> encodings, float max_distance, int threads);

// The near pairs i < j of rows i of `left` and j of `right`, two blocks of the same matrix of encodings: `offset` is how far the
// block `right` lies behind `left`, not negative. Columns are in the order of rarest_first.
template <typename Real>
NearPairs near_pairs(CsrRows<Real> left, CsrRows<Real> right, std::int64_t offset, std::int64_t columns,
                     float max_distance, int threads);

// Renames columns to their place in the order of `uses`, how many rows of the whole matrix use them, and sorts every row by it.
template <typename Real>
void rarest_first(CsrRows<Real> rows, const std::int32_t* uses, std::int64_t columns, int threads);

// All of them, into distances [rows, rows].
template <typename Real>
void jaccard_distance(SparseRows<Real> encodings, float* distances, int threads);

}  // namespace salcr
