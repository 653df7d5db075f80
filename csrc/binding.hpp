#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

namespace salcr {

namespace py = pybind11;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

constexpr std::int64_t kMaxRows = std::int64_t{1} << 31;  // indices are kept in 32 bits

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// A NumPy array that takes over the memory of `values`.
template <typename T>
py::array_t<T> as_array(std::vector<T>&& values) {
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  auto* data = owner.get();
  py::capsule keeper(owner.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(static_cast<py::ssize_t>(data->size()), data->data(), keeper);
}

}  // namespace salcr
