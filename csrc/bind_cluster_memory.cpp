// Cluster memories in salcr._C: the passes between the products of a contrast, and the update.

#include <pybind11/stl.h>

#include <optional>

#include "bind_softmax_rows.hpp"
#include "cluster_memory_update.hpp"

namespace salcr {
namespace {

template <typename Real>
void require_targets(const Indices& targets, const ProductRows<Real>& block) {
  require_rows(targets, block);
  for (std::int64_t r = 0; r < block.rows; ++r)
    require(targets.data()[r] < block.columns, "softmax_rows: target out of range");
}

template <typename Real>
const Real* soft_targets(const std::optional<Array<Real>>& soft, const ProductRows<Real>& block) {
  if (!soft) return nullptr;
  require(soft->ndim() == 2 && soft->shape(0) == block.rows && soft->shape(1) == block.columns,
          "softmax_rows: soft targets do not fit");
  return soft->data();
}

template <typename Real>
void bind_cluster_memory(py::module_& m) {
  m.def(
      "contrast_losses",
      [](Array<Real> products, Array<Real> scale, Indices targets, std::optional<Array<Real>> soft, Array<Real> losses,
         Array<Real> lse, int threads) {
        const auto block = block_of(products, scale, threads);
        require_targets(targets, block);
        require_rows(losses, block);
        require_rows(lse, block);
        const Real* wanted = soft_targets(soft, block);
        Real *out = losses.mutable_data(), *sums = lse.mutable_data();
        py::gil_scoped_release release;
        contrast_losses(block, targets.data(), wanted, out, sums);
      },
      py::arg("products").noconvert(), py::arg("scale").noconvert(), py::arg("targets").noconvert(),
      py::arg("soft").noconvert(), py::arg("losses").noconvert(), py::arg("lse").noconvert(), py::arg("threads"));
  m.def(
      "contrast_shares",
      [](Array<Real> products, Array<Real> scale, Indices targets, std::optional<Array<Real>> soft, Array<Real> weight,
         int threads) {
        const auto block = block_of(products, scale, threads);
        require_targets(targets, block);
        require_rows(weight, block);
        const Real* wanted = soft_targets(soft, block);
        py::gil_scoped_release release;
        contrast_shares(block, targets.data(), wanted, weight.data());
      },
      py::arg("products").noconvert(), py::arg("scale").noconvert(), py::arg("targets").noconvert(),
      py::arg("soft").noconvert(), py::arg("weight").noconvert(), py::arg("threads"));
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
  m.def(
      "update_cluster_memory",
      [](Array<Real> memory, Array<Real> features, Array<std::int64_t> targets, Array<std::int64_t> order,
         double momentum, bool hardest, int threads) {
        require(memory.ndim() == 3 && features.ndim() == 3 && targets.ndim() == 2 && order.ndim() == 1,
                "update_cluster_memory: wrong number of axes");
        const auto banks = memory.shape(0), classes = memory.shape(1), width = memory.shape(2);
        const auto samples = features.shape(1);
        require(features.shape(0) == banks && features.shape(2) == width && targets.shape(0) == banks &&
                    targets.shape(1) == samples && order.shape(0) == samples && threads >= 1,
                "update_cluster_memory: shapes do not fit");
        for (py::ssize_t i = 0; i < targets.size(); ++i)
          require(targets.data()[i] < classes, "update_cluster_memory: target out of range");
        for (py::ssize_t i = 0; i < samples; ++i)
          require(order.data()[i] >= 0 && order.data()[i] < samples, "update_cluster_memory: order out of range");
        Real* data = memory.mutable_data();
        py::gil_scoped_release release;
        update_cluster_memory(data, features.data(), targets.data(), order.data(), banks, classes, samples, width,
                              momentum, hardest, threads);
      },
      py::arg("memory").noconvert(), py::arg("features").noconvert(), py::arg("targets").noconvert(),
      py::arg("order").noconvert(), py::arg("momentum"), py::arg("hardest"), py::arg("threads"));
}

}  // namespace

void bind_cluster_memory(py::module_& m) {
  bind_cluster_memory<float>(m);
  bind_cluster_memory<double>(m);
}

}  // namespace salcr
