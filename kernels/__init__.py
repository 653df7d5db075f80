"""Triton kernels and their launchers, one file a family; nothing of salcr is imported. ``salcr/kernels`` is a link to here."""
