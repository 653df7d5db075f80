// salcr._C: NumPy arrays in, the GIL released around the work. Shapes are checked in the bindings of each family, so that no
// call can read out of bounds; friendlier messages come from salcr.ops.

#include "binding.hpp"

namespace salcr {

void bind_assignment(py::module_& m);
void bind_clustering(py::module_& m);
void bind_memory_update(py::module_& m);
void bind_pooling(py::module_& m);
void bind_propagation(py::module_& m);
void bind_set_contrast(py::module_& m);
void bind_sinkhorn(py::module_& m);
void bind_softmax_rows(py::module_& m);

}  // namespace salcr

PYBIND11_MODULE(_C, m) {
  m.doc() = "C++ backends of salcr.ops";
  salcr::bind_assignment(m);
  salcr::bind_clustering(m);
  salcr::bind_memory_update(m);
  salcr::bind_pooling(m);
  salcr::bind_propagation(m);
  salcr::bind_set_contrast(m);
  salcr::bind_sinkhorn(m);
  salcr::bind_softmax_rows(m);
}
