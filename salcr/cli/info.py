"""What ``salcr info`` prints."""

import os
import platform
from importlib import metadata

import torch

import salcr
import salcr.ops  # fills the table of backends
from salcr.ops._dispatch import missing, table
from salcr.ops.backends.cuda.assignment import missing_extension

PACKAGES = ("numpy", "scipy", "scikit-learn", "numba", "triton", "cupy-cuda13x", "faiss-cpu", "pillow", "matplotlib")


def report() -> str:
    """Versions, devices, the extension, and every operator's backends."""
    extension, cuda = missing("cpp"), missing_extension()
    if extension is not None:
        extension += ": install a C++17 compiler with OpenMP, then salcr again"
    sections = {
        f"salcr {salcr.__version__}": _versions(),
        "devices": _devices(),
        "extensions": [
            f"salcr._C      {'built' if extension is None else extension}",
            f"salcr._cuda   {'built' if cuda is None else cuda}",
        ],
        "backends of every operator, preferred first": _operators(),
    }
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
