"""C++ with OpenMP: adapters from torch tensors to salcr._C, one file a family."""
