"""Triton kernels and their launchers, one file a family. Nothing of salcr is imported; ``salcr/kernels`` links here."""
