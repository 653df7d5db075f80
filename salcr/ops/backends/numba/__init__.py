"""numba: loops of the Python side that depend on data."""
