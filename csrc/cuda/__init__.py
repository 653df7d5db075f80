"""The sources of salcr._cuda, as a package so that a wheel carries them: CuPy compiles them where nvcc did not."""
