#pragma once
#include <cstdint>

namespace salcr {

// Every row's neighbours in order, itself first, and the weights of the nearest of them.
template <typename Real>
struct NeighbourGraph {
  const std::int32_t* ranks;  // [rows, k]
  const Real* weights;        // [rows, k2], not negative
  std::int64_t rows, k, k2;
};

// Cosines [queries, rows - queries] of the first rows with all others, where each row stands for its symmetric adjacency after
// two weighted sums over k2 neighbours, each of which is normalised.
template <typename Real>
void graph_cosines(const NeighbourGraph<Real>& graph, std::int64_t queries, Real* cosines, int threads);

}  // namespace salcr
