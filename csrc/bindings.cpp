// salcr._C: NumPy arrays in, the GIL released around the work. Shapes are checked in the bindings of each family, so that no
// call can read out of bounds; friendlier messages come from salcr.ops.

#include "binding.hpp"

namespace salcr {

void bind_assignment(py::module_& m);
void bind_augmentation(py::module_& m);
void bind_batch_norm(py::module_& m);
void bind_centroids(py::module_& m);
void bind_cluster_memory(py::module_& m);
void bind_dbscan(py::module_& m);
void bind_index_sets(py::module_& m);
void bind_instance_memory(py::module_& m);
void bind_jaccard(py::module_& m);
void bind_knn(py::module_& m);
void bind_pooling(py::module_& m);
void bind_propagation(py::module_& m);
void bind_reranking(py::module_& m);
void bind_sinkhorn(py::module_& m);

}  // namespace salcr

PYBIND11_MODULE(_C, m) {
  m.doc() = "C++ backends of salcr.ops";
  salcr::bind_assignment(m);
  salcr::bind_augmentation(m);
  salcr::bind_batch_norm(m);
  salcr::bind_centroids(m);
  salcr::bind_cluster_memory(m);
  salcr::bind_dbscan(m);
  salcr::bind_index_sets(m);
  salcr::bind_instance_memory(m);
  salcr::bind_jaccard(m);
  salcr::bind_knn(m);
  salcr::bind_pooling(m);
  salcr::bind_propagation(m);
  salcr::bind_reranking(m);
  salcr::bind_sinkhorn(m);
}
