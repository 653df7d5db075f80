// Instance memories in salcr._C: the search in products, and the contrast with sets of rows.

#include "bind_softmax_rows.hpp"
#include "instance_memory_contrast.hpp"

namespace salcr {
namespace {

template <typename Real>
SetContrast sizes(const Array<Real>& features, const Array<Real>& memory, const Array<std::int64_t>& positives,
                  const Array<Real>& per_row, double temperature, int threads) {
  const bool axes = features.ndim() == 3 && memory.ndim() == 3 && positives.ndim() == 3 && per_row.ndim() == 2;
  if (!axes || memory.shape(0) != features.shape(0) || memory.shape(2) != features.shape(2) ||
      positives.shape(0) != features.shape(0) || positives.shape(1) != features.shape(1) ||
      per_row.shape(0) != features.shape(0) || per_row.shape(1) != features.shape(1) || threads < 1)
    throw std::invalid_argument("set_contrast: shapes do not fit");
  for (py::ssize_t i = 0; i < positives.size(); ++i)
    if (positives.data()[i] >= memory.shape(1)) throw std::invalid_argument("set_contrast: positive out of range");
  return {features.shape(0), features.shape(1),  memory.shape(1), features.shape(2),
          positives.shape(2), temperature, threads};
}

template <typename Real>
void bind_instance_memory(py::module_& m) {
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
      "positives_lse",
      [](Array<Real> features, Array<Real> memory, Array<std::int64_t> positives, Array<Real> near, double temperature,
         int threads) {
        const auto size = sizes(features, memory, positives, near, temperature, threads);
        Real* out = near.mutable_data();
        py::gil_scoped_release release;
        positives_lse(size, features.data(), memory.data(), positives.data(), out);
      },
      py::arg("features").noconvert(), py::arg("memory").noconvert(), py::arg("positives").noconvert(),
      py::arg("near").noconvert(), py::arg("temperature"), py::arg("threads"));
  m.def(
      "set_contrast_backward",
      [](Array<Real> features, Array<Real> memory, Array<std::int64_t> positives, Array<Real> pull, Array<Real> weight,
         Array<Real> gradient, double temperature, int threads) {
        const auto size = sizes(features, memory, positives, weight, temperature, threads);
        if (pull.ndim() != 3 || pull.size() != features.size() || gradient.ndim() != 3 ||
            gradient.size() != features.size())
          throw std::invalid_argument("set_contrast: shapes do not fit");
        Real* out = gradient.mutable_data();
        py::gil_scoped_release release;
        set_contrast_backward(size, features.data(), memory.data(), positives.data(), pull.data(), weight.data(),
                                     out);
      },
      py::arg("features").noconvert(), py::arg("memory").noconvert(), py::arg("positives").noconvert(),
      py::arg("pull").noconvert(), py::arg("weight").noconvert(), py::arg("gradient").noconvert(),
      py::arg("temperature"), py::arg("threads"));
}

}  // namespace

void bind_instance_memory(py::module_& m) {
  bind_instance_memory<float>(m);
  bind_instance_memory<double>(m);
}

}  // namespace salcr
