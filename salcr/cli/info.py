"""What ``salcr info`` prints."""

import importlib.util
import os
import platform
from importlib import metadata
from pathlib import Path
from types import ModuleType

import torch

import salcr
import salcr.ops  # fills the table of backends
from salcr.ops._dispatch import missing, table
from salcr.ops.backends.cuda.assignment import missing_extension

ROOT = Path(salcr.__file__).resolve().parents[1]
PACKAGES = ("numpy", "scipy", "scikit-learn", "numba", "triton", "cupy-cuda13x", "faiss-cpu", "pillow", "matplotlib")


def report() -> str:
    """Versions, devices, the extension, every operator's backends, and kernel files without a green hardware run."""
    extension, kernels = missing("cpu"), missing_extension()
    sections = {
        f"salcr {salcr.__version__}": _versions(),
        "devices": _devices(),
        "extensions": [
            f"salcr._C      {'built' if extension is None else extension}",
            f"salcr._cuda   {'built' if kernels is None else kernels}",
        ],
        "backends of every operator, preferred first": _operators(),
    }
    if (ROOT / "benchmarks" / "ledger.py").is_file():
        sections["kernel files to verify on a GPU (make gpu-check)"] = _kernels(ROOT)
    return "\n\n".join("\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in sections.items())


def _versions() -> list[str]:
    found = {"python": platform.python_version(), "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})"}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return [f"{name:14}{version}" for name, version in found.items()]


def _devices() -> list[str]:
    lines = [f"cpu           {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads in torch"]
    if not torch.cuda.is_available():
        return [*lines, "cuda          no device visible"]
    return [*lines, *(f"cuda:{i:<9}{torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))]


def _operators() -> list[str]:
    rows = table()
    width = max(map(len, rows)) + 2
    lines = []
    for operator, backends in rows.items():
        here = ", ".join(name for name, reason in backends.items() if reason is None)
        lines.append(f"{operator:{width}}{here}")
        lines += [f"{'':{width}}not {name}: {reason}" for name, reason in backends.items() if reason is not None]
    return lines


def _kernels(root: Path) -> list[str]:
    ledger = _load(root / "benchmarks" / "ledger.py")
    found = [f"{kernel}: {reason}" for kernel, reason in ledger.unverified(root).items()]
    return found or [f"none of {len(ledger.hashes(root))}"]


def _load(path: Path) -> ModuleType:
    """A file of the checkout as a module: benchmarks is not an installed package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
