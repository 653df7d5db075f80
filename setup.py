"""Builds the C++ extension salcr._C; everything else about the package stands in pyproject.toml.

A missing compiler must not keep anyone from the PyTorch path: a failed build is a warning, and `salcr info` says what
is missing. SALCR_REQUIRE_CPP=1 turns it into an error (CI sets it).
"""

import os
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup


class OptionalBuild(build_ext):
    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            if os.environ.get("SALCR_REQUIRE_CPP") == "1":
                raise
            self.warn(f"salcr._C was not built, the cpu backend will be missing: {error}")


flags = ["-O3", "-fopenmp", "-Wall", "-Wextra"]
if os.environ.get("SALCR_NATIVE", "1") == "1":  # 0: a binary that also runs on other machines
    flags.append("-march=native")
sanitize = os.environ.get("SALCR_SANITIZE")  # for example "address,undefined"
if sanitize:
    flags = ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fopenmp"]

ParallelCompile("SALCR_BUILD_JOBS", default=1).install()  # files at a time
setup(
    ext_modules=[
        Pybind11Extension(
            "salcr._C",
            sorted(str(path) for path in Path("csrc").glob("*.cpp")),
            include_dirs=["csrc"],
            depends=sorted(str(path) for path in Path("csrc").glob("*.hpp")),
            cxx_std=17,
            extra_compile_args=flags,
            extra_link_args=["-fopenmp"] + ([f"-fsanitize={sanitize}"] if sanitize else []),
        )
    ],
    cmdclass={"build_ext": OptionalBuild},
)
