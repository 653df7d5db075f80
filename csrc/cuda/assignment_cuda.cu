// The kernels of assignment_kernels.cuh, compiled ahead of time and launched by name.

#include <cuda_runtime.h>

#include <stdexcept>

#include "assignment_kernels.cuh"
#include "launch.hpp"

namespace salcr {
namespace {

const void* kernel_named(const std::string& name) {
  if (name == "assignment_batch_float32") return reinterpret_cast<const void*>(assignment_batch_float32);
  if (name == "assignment_batch_float64") return reinterpret_cast<const void*>(assignment_batch_float64);
  if (name == "assignment_large_float32") return reinterpret_cast<const void*>(assignment_large_float32);
  if (name == "assignment_large_float64") return reinterpret_cast<const void*>(assignment_large_float64);
  throw std::invalid_argument("no kernel is named " + name);
}

void check(cudaError_t status, const std::string& name) {
  if (status != cudaSuccess) throw std::runtime_error(name + ": " + cudaGetErrorString(status));
}

}  // namespace

void launch(const std::string& name, const Geometry& geometry, int device, std::uintptr_t stream,
            std::vector<long long> arguments) {
  const void* const kernel = kernel_named(name);
  check(cudaSetDevice(device), name);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, geometry.shared_bytes), name);
  std::vector<void*> pointers;
  for (long long& argument : arguments) pointers.push_back(&argument);
  const dim3 grid(geometry.blocks), block(geometry.threads);
  const std::size_t shared = geometry.shared_bytes;
  const auto on = reinterpret_cast<cudaStream_t>(stream);
  check(geometry.cooperative ? cudaLaunchCooperativeKernel(kernel, grid, block, pointers.data(), shared, on)
                             : cudaLaunchKernel(kernel, grid, block, pointers.data(), shared, on),
        name);
}

}  // namespace salcr
