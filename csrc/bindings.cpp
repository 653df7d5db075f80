// salcr._C: NumPy arrays in, the GIL released around the work. Shapes are checked in the bindings of each family, so that no
// call can read out of bounds; friendlier messages come from salcr.ops. The families' files are compiled together here:
// alone each would take seconds for pybind11's own code.

#include "bind_assignment.cpp"
#include "bind_augmentation.cpp"
#include "bind_batch_norm.cpp"
#include "bind_centroids.cpp"
#include "bind_cluster_memory.cpp"
#include "bind_dbscan.cpp"
#include "bind_index_sets.cpp"
#include "bind_instance_memory.cpp"
#include "bind_jaccard.cpp"
#include "bind_knn.cpp"
#include "bind_pooling.cpp"
#include "bind_propagation.cpp"
#include "bind_reranking.cpp"
#include "bind_sinkhorn.cpp"
#include "interrupts.hpp"

namespace salcr {
namespace {

unsigned long main_thread;  // of Python: it alone runs handlers of signals

void check_signals() {
  if (PyThread_get_thread_ident() != main_thread) return;
  py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

void heed_signals() {
  main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  run_signal_handlers = check_signals;
}

}  // namespace
}  // namespace salcr

PYBIND11_MODULE(_C, m) {
  m.doc() = "C++ backends of salcr.ops";
  salcr::heed_signals();
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
