// salcr._cuda: one function, device pointers and streams as integers; nothing of CUDA is called when it is imported.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "launch.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA backends of salcr.ops, compiled by nvcc";
  m.def(
      "launch",
      [](const std::string& kernel, int blocks, int threads, int shared_bytes, bool cooperative, int device,
         std::uintptr_t stream, std::vector<long long> arguments) {
        salcr::launch(kernel, {blocks, threads, shared_bytes, cooperative}, device, stream, std::move(arguments));
      },
      py::arg("kernel"), py::arg("blocks"), py::arg("threads"), py::arg("shared_bytes"), py::arg("cooperative"),
      py::arg("device"), py::arg("stream"), py::arg("arguments"));
}
