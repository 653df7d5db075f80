// Bindings of softmax_rows.hpp; see bindings.cpp.

#include "binding.hpp"
#include "softmax_rows.hpp"

namespace salcr {
namespace {

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

template <typename Real>
void require_targets(const Indices& targets, const ProductRows<Real>& block) {
  require_rows(targets, block);
  for (std::int64_t r = 0; r < block.rows; ++r)
    require(targets.data()[r] < block.columns, "softmax_rows: target out of range");
}

template <typename Real>
void bind(py::module_& m) {
  m.def(
      "search_rows",
      [](Array<Real> products, Array<Real> scale, std::int64_t k, bool shares, Indices indices, Array<Real> lse,
         int threads) {
        const auto block = block_of(products, scale, threads);
        require_rows(lse, block);
        require(k >= 1 && indices.ndim() == 2 && indices.shape(0) == block.rows && indices.shape(1) == k,
                "search_rows: wrong shape of indices");
        auto* places = indices.mutable_data();
        Real* sums = lse.mutable_data();
        py::gil_scoped_release release;
        search_rows(block, k, shares, places, sums);
      },
      py::arg("products").noconvert(), py::arg("scale").noconvert(), py::arg("k"), py::arg("shares"),
      py::arg("indices").noconvert(), py::arg("lse").noconvert(), py::arg("threads"));
  m.def(
      "contrast_losses",
      [](Array<Real> products, Array<Real> scale, Indices targets, Array<Real> losses, Array<Real> lse, int threads) {
        const auto block = block_of(products, scale, threads);
        require_targets(targets, block);
        require_rows(losses, block);
        require_rows(lse, block);
        Real *out = losses.mutable_data(), *sums = lse.mutable_data();
        py::gil_scoped_release release;
        contrast_losses(block, targets.data(), out, sums);
      },
      py::arg("products").noconvert(), py::arg("scale").noconvert(), py::arg("targets").noconvert(),
      py::arg("losses").noconvert(), py::arg("lse").noconvert(), py::arg("threads"));
  m.def(
      "contrast_shares",
      [](Array<Real> products, Array<Real> scale, Indices targets, Array<Real> weight, int threads) {
        const auto block = block_of(products, scale, threads);
        require_targets(targets, block);
        require_rows(weight, block);
        py::gil_scoped_release release;
        contrast_shares(block, targets.data(), weight.data());
      },
      py::arg("products").noconvert(), py::arg("scale").noconvert(), py::arg("targets").noconvert(),
      py::arg("weight").noconvert(), py::arg("threads"));
  m.def(
      "rows_through_normalisation",
      [](Array<Real> gradient, Array<Real> features, int threads) {
        require(gradient.ndim() == 2 && features.ndim() == 2 && gradient.shape(0) == features.shape(0) &&
                    gradient.shape(1) == features.shape(1) && threads >= 1,
                "rows_through_normalisation: shapes do not fit");
        Real* out = gradient.mutable_data();
        py::gil_scoped_release release;
        rows_through_normalisation(out, features.data(), features.shape(0), features.shape(1), threads);
      },
      py::arg("gradient").noconvert(), py::arg("features").noconvert(), py::arg("threads"));
}

}  // namespace

void bind_softmax_rows(py::module_& m) {
  bind<float>(m);
  bind<double>(m);
}

}  // namespace salcr
