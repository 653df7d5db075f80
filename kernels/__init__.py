"""Triton kernels and their launchers, installed as ``salcr.kernels``: one file a family, nothing of salcr imported."""
