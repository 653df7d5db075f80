"""Builds the extensions salcr._C (C++) and, where nvcc is found, salcr._cuda; the rest stands in pyproject.toml.

A missing compiler must not keep anyone from the PyTorch path: a failed build is a warning, and `salcr info` says what
is missing. SALCR_REQUIRE_CPP=1 and SALCR_REQUIRE_CUDA=1 turn it into an error (CI sets both). What is built runs on any
machine of the architecture and picks AVX-512 or AVX2 as it is loaded; SALCR_NATIVE=1 builds for this machine alone.
"""

import hashlib
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pybind11
from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import Extension, setup

CUDA = Path("csrc/cuda")
CUDA_HOME = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
NVCC = shutil.which("nvcc", path=f"{CUDA_HOME}/bin" if CUDA_HOME else None)
ARCHITECTURES = (80, 90, 100)  # as far as nvcc knows them, and PTX of the last of these, for newer ones


class OptionalBuild(build_ext):
    def finalize_options(self) -> None:
        """Objects stay in build/, apart by what they were compiled with, so that a later build takes them again."""
        super().finalize_options()
        compilers = os.environ.get("CXX"), os.environ.get("CC")
        made_by = [sysconfig.get_config_var("EXT_SUFFIX"), pybind11.__version__, *compilers, NVCC, *flags]
        self.build_temp = f"build/objects-{hashlib.sha256(repr(made_by).encode()).hexdigest()[:8]}"

    def build_extension(self, extension: Extension) -> None:
        try:
            if extension.name == "salcr._cuda":
                self.build_with_nvcc(extension)
            else:  # linked anew: what stands there may be of other objects
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
                super().build_extension(extension)
        except Exception as error:
            if not extension.optional:
                raise
            self.warn(f"{extension.name} was not built, its backends will be missing: {error}")

    def build_with_nvcc(self, extension: Extension) -> None:
        """nvcc links the CUDA runtime statically, and that looks for the driver at the first launch, not at import."""
        if NVCC is None:
            raise FileNotFoundError("nvcc is neither in CUDA_HOME nor on the path")
        target, kept = Path(self.get_ext_fullpath(extension.name)), Path(self.build_temp, "salcr_cuda.so")
        if not kept.exists() or changed_since(kept, *extension.sources, *extension.depends):
            self.run_nvcc(extension.sources, kept)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a process may have loaded it
        shutil.copy(kept, target)

    def run_nvcc(self, sources: list[str], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        listed = subprocess.run([NVCC, "--list-gpu-arch"], capture_output=True, text=True).stdout.split()
        known = [n for n in ARCHITECTURES if f"compute_{n}" in listed] or list(ARCHITECTURES)
        codes = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in known]
        codes.append(f"-gencode=arch=compute_{known[-1]},code=compute_{known[-1]}")
        includes = [f"-I{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))]
        command = [NVCC, "-shared", "-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", *codes, *includes]
        command.append(f"--threads={os.environ.get('SALCR_BUILD_JOBS', '1')}")  # architectures at a time
        done = subprocess.run([*command, *sources, "-o", str(target)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"nvcc failed: {done.stderr or done.stdout}")


flags = ["-O3", "-fno-trapping-math", "-fopenmp", "-Wall", "-Wextra"]  # nobody reads floating-point exceptions
flags += ["-fstrict-overflow", "-fwrapv"]  # as Python 3.11 builds: newer ones let pointers wrap around
flags.append("-march=native" if os.environ.get("SALCR_NATIVE") == "1" else "-DSALCR_PORTABLE")
sanitize = os.environ.get("SALCR_SANITIZE")  # for example "address,undefined"
if sanitize:
    flags = ["-O1", "-g1", "-fno-omit-frame-pointer", f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fopenmp"]
    flags.append("-fno-sanitize=null,object-size,vptr")  # dear to compile; what they find, AddressSanitizer finds

headers, bindings = (sorted(str(path) for path in Path("csrc").glob(names)) for names in ("*.hpp", "bind_*.cpp"))


def is_old(compiled: str | Path, source: str) -> bool:
    """Whether what the file ``source`` was compiled to has to be compiled again."""
    return changed_since(compiled, source, *headers, *(bindings if source == "csrc/bindings.cpp" else ()))


def changed_since(compiled: str | Path, *sources: str) -> bool:
    """Whether any of ``sources`` or this file changed since ``compiled`` was made of them."""
    return any(os.path.getmtime(path) >= os.path.getmtime(compiled) for path in (*sources, __file__))


extensions = [
    Pybind11Extension(
        "salcr._C",
        sorted({str(path) for path in Path("csrc").glob("*.cpp")} - {*bindings}),  # bindings.cpp includes these
        include_dirs=["csrc"],
        depends=headers + bindings,
        cxx_std=17,
        extra_compile_args=flags,
        extra_link_args=["-fopenmp"] + ([f"-fsanitize={sanitize}"] if sanitize else []),
        optional=os.environ.get("SALCR_REQUIRE_CPP") != "1",
    )
]
require_cuda = os.environ.get("SALCR_REQUIRE_CUDA") == "1"
if (NVCC or require_cuda) and not sanitize:
    sources = sorted(str(path) for suffix in ("cu", "cpp") for path in CUDA.glob(f"*.{suffix}"))
    depends = sorted(str(path) for suffix in ("cuh", "hpp") for path in CUDA.glob(f"*.{suffix}"))
    extensions.append(Extension("salcr._cuda", sources, depends=depends, optional=not require_cuda))

ParallelCompile("SALCR_BUILD_JOBS", default=1, needs_recompile=is_old).install()  # files at a time
setup(ext_modules=extensions, cmdclass={"build_ext": OptionalBuild})
