#pragma once
#include <cstdint>

#include "sparse_rows.hpp"

namespace salcr {

template <typename Real>
struct Neighbours {
  const std::int32_t* ranks;  // [rows, k], each row's nearest in order, itself first
  const Real* products;       // [rows, k], their inner products with it
  const Real* features;       // [rows, width], unit rows
  std::int64_t rows, k, width;
};

// k-reciprocal encodings (docs/method.md, "Encodings"): rows that sum to 1, columns in no particular order.
// half: ranks that the sets use which may join a reciprocal set; k2: encodings are averaged over this many first ranks.
template <typename Real>
SparseRows<Real> encode(const Neighbours<Real>& near, std::int64_t half, std::int64_t k2, int threads);

}  // namespace salcr
