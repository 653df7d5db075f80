"""Triton: adapters from the operators to salcr.kernels, one file a family."""
