#pragma once
#include <cstdint>
#include <vector>

#include "sparse_rows.hpp"

namespace salcr {

template <typename Real>
struct Neighbours {
  const std::int32_t* ranks;  // [rows, k], each row's nearest in order, itself first
  const Real* products;       // [rows, k], their cosines with it
  const Real* features;       // [rows, width], of any length
  std::int64_t rows, k, width;
  const Real* factors = nullptr;  // [rows], of each row's squared distances; 1 where there are none
};

// k-reciprocal encodings (docs/method.md, "Encodings"): rows that sum to 1, columns in no particular order.
// half: ranks that the sets use which may join a reciprocal set; k2: encodings are averaged over this many first ranks.
template <typename Real>
SparseRows<Real> encode(const Neighbours<Real>& near, std::int64_t half, std::int64_t k2, int threads);

// The same in three steps for some rows of many, whose features are elsewhere.

struct Range {
  std::int64_t first, last;
  std::int64_t count() const { return last - first; }
};

struct Pairs {
  std::vector<std::int64_t> pointers;  // [rows + 1]
  std::vector<std::int32_t> others;
};

// For every row of the range, the images of its expanded set whose inner product with it is in neither's list.
template <typename Real>
Pairs unlisted_pairs(const Neighbours<Real>& near, Range range, std::int64_t half, int threads);

// Encodings before they are averaged; the products of the unlisted pairs, in their order. Reads no features.
template <typename Real>
SparseRows<Real> weighted_rows(const Neighbours<Real>& near, Range range, std::int64_t half,
                               const std::int64_t* pair_pointers, const Real* pair_products, int threads);

// Means of `encodings`, which have `columns` columns, over the k2 places of every row.
template <typename Real>
SparseRows<Real> averaged_rows(const std::int32_t* places, std::int64_t rows, std::int64_t k2, CsrRows<Real> encodings,
                               std::int64_t columns, int threads);

// Cosines of the rows of `left` with those of `right`, summed as `encode` sums them.
template <typename Real>
void row_cosines(const Real* left, const Real* right, std::int64_t rows, std::int64_t width, Real* out, int threads);

}  // namespace salcr
