#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace salcr {

struct Geometry {
  int blocks, threads, shared_bytes;
  bool cooperative;  // every block runs at once, so that the grid can have a barrier
};

// Puts a kernel of this library on `stream` of `device`. Each argument is 8 bytes: a pointer or a number.
// Throws std::invalid_argument for a name it does not have and std::runtime_error with CUDA's own message.
void launch(const std::string& name, const Geometry& geometry, int device, std::uintptr_t stream,
            std::vector<long long> arguments);

}  // namespace salcr
