// salcr._C: NumPy arrays in, the GIL released around the work. Shapes are checked here, so that no call can read out of bounds;
// friendlier messages come from salcr.ops.

#include "binding.hpp"
#include "memory_update.hpp"

void bind_assignment(pybind11::module_& m);
void bind_pooling(pybind11::module_& m);
void bind_set_contrast(pybind11::module_& m);

namespace salcr {

void bind_clustering(py::module_& m);

namespace {

template <typename Real>
void bind_update_cluster_memory(py::module_& m) {
  m.def(
      "update_cluster_memory",
      [](Array<Real> memory, Array<Real> features, Array<std::int64_t> targets, Array<std::int64_t> order,
         double momentum, int threads) {
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
                              momentum, threads);
      },
      py::arg("memory").noconvert(), py::arg("features").noconvert(), py::arg("targets").noconvert(),
      py::arg("order").noconvert(), py::arg("momentum"), py::arg("threads"));
}

}  // namespace
}  // namespace salcr

PYBIND11_MODULE(_C, m) {
  m.doc() = "C++ backends of salcr.ops";
  salcr::bind_update_cluster_memory<float>(m);
  salcr::bind_update_cluster_memory<double>(m);
  salcr::bind_clustering(m);
  bind_assignment(m);
  bind_pooling(m);
  bind_set_contrast(m);
}
