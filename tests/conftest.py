"""Fixtures of every test: seeds that are printed, poisoned fresh memory, a GPU only where there is one.

Operators and kernels need PyTorch, NumPy, SciPy, scikit-learn and numba. Where something is not installed that the rest
of the package needs, test files that import it are left out, and the report says so.
"""

import errno
import gc
import importlib
import importlib.util
import os
import zlib

import pytest

gc.disable()  # until everything is collected: what is imported stays, and would be looked through again and again
# Tests are small, and threads that wait for each other on a busy machine take minutes.
THREADS = int(os.environ.get("SALCR_TEST_THREADS", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # of the BLAS of NumPy and SciPy too; read when they are loaded
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS; read when CUDA starts

NOT_OF_OPERATORS = (
    "pydantic",
    "yaml",
    "typer",
    "PIL",
    "tqdm",
    "safetensors",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorboard",
)
MISSING = [name for name in NOT_OF_OPERATORS if importlib.util.find_spec(name) is None]
LEFT_OUT = {}  # test file or folder → the module that it lacks


def pytest_report_header():
    return f"not installed: {', '.join(MISSING)}; test files that need one of them are left out" if MISSING else None


def pytest_ignore_collect(collection_path, config):
    if not MISSING:
        return None
    module = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
    if not module.exists() or not module.name.startswith(("conftest", "test_")) or module.samefile(__file__):
        return None
    try:
        importlib.import_module(".".join(module.relative_to(config.rootpath).with_suffix("").parts))
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in MISSING:
            return None
        LEFT_OUT[collection_path.relative_to(config.rootpath).as_posix()] = error.name
        return True
    except (Exception, pytest.skip.Exception):  # collecting it says what is wrong, or that it is skipped
        return None


def pytest_report_collectionfinish():
    return [f"left out: {path} ({module} is not installed)" for path, module in LEFT_OUT.items()]


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    import torch  # not above: the process that hands out tests to others runs none

    torch.set_num_threads(THREADS)
    items.sort(key=lambda item: "long" not in item.keywords)
    if torch.cuda.is_available():
        return
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def poison_fresh_memory(monkeypatch):
    """``torch.empty`` and its kin come filled with NaN (integers: the smallest), so that a forgotten element shows."""
    import torch

    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms(), which imports all of inductor
    yield
    torch.set_deterministic_debug_mode("default")


@pytest.fixture(autouse=True)
def leave_threads_as_they_were():
    """A test may set the number of threads."""
    import torch

    yield
    torch.set_num_threads(THREADS)


@pytest.fixture
def full_disk(monkeypatch):
    """A function after whose call files can be flushed to disk so many times, and no more."""

    def fill(after=0):
        real, flushes = os.fsync, iter(range(after))

        def fsync(file):
            if next(flushes, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(file)

        monkeypatch.setattr(os, "fsync", fsync)

    return fill


@pytest.fixture
def seed(request):
    """A seed that depends on the test's name and on SALCR_TEST_SEED; it is printed when the test fails."""
    value = zlib.crc32(f"{request.node.nodeid}{os.environ.get('SALCR_TEST_SEED', '')}".encode())
    print(f"seed {value}")
    return value


@pytest.fixture
def generator(seed):
    """A torch generator on the CPU, seeded by ``seed``; the global generators are seeded too."""
    import numpy as np
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  scipy and scikit-learn still draw from it
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def rng(seed):
    """A NumPy generator seeded by ``seed``."""
    import numpy as np

    return np.random.default_rng(seed)
