// update_cluster_memory of salcr._C.

#include "binding.hpp"
#include "cluster_memory_update.hpp"

namespace salcr {
namespace {

template <typename Real>
void bind(py::module_& m) {
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

void bind_memory_update(py::module_& m) {
  bind<float>(m);
  bind<double>(m);
}

}  // namespace salcr
