// salcr._C: NumPy arrays in, the GIL released around the work. Shapes are checked here, so that no call can read out of bounds;
// friendlier messages come from salcr.ops.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "memory_update.hpp"

namespace py = pybind11;

void bind_pooling(py::module_& m);
void bind_set_contrast(py::module_& m);

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

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
        salcr::update_cluster_memory(data, features.data(), targets.data(), order.data(), banks, classes, samples,
                                     width, momentum, threads);
      },
      py::arg("memory").noconvert(), py::arg("features").noconvert(), py::arg("targets").noconvert(),
      py::arg("order").noconvert(), py::arg("momentum"), py::arg("threads"));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "C++ backends of salcr.ops";
  bind_update_cluster_memory<float>(m);
  bind_update_cluster_memory<double>(m);
  bind_pooling(m);
  bind_set_contrast(m);
}
