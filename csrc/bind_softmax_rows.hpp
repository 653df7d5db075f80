#pragma once
#include "binding.hpp"
#include "softmax_rows.hpp"

// What the bindings check of a block of products, for the memories of clusters and of instances.
namespace salcr {

using Indices = Array<std::int64_t>;

template <typename Real>
ProductRows<Real> block_of(Array<Real>& products, const Array<Real>& scale, int threads) {
  require(products.ndim() == 2 && scale.ndim() == 1 && scale.shape(0) == products.shape(0) && products.shape(1) > 0 &&
              threads >= 1,
          "softmax_rows: shapes do not fit");
  return {products.mutable_data(), scale.data(), products.shape(0), products.shape(1), threads};
}

template <typename T, typename Real>
void require_rows(const Array<T>& values, const ProductRows<Real>& block) {
  require(values.ndim() == 1 && values.shape(0) == block.rows, "softmax_rows: wrong number of rows");
}

}  // namespace salcr
