"""CUDA C++: launches of csrc/cuda."""
