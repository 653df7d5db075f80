"""``python -m tests.sanitized FOLDER``: the tests of the C++ backends, on the salcr._C of the installation in FOLDER.

``make sanitize`` installs one there that AddressSanitizer and UndefinedBehaviorSanitizer watch: the first error of
either ends the process. ``csrc/bind_<family>.cpp`` stands for ``tests/ops/test_<family>.py``; a function of the
extension that no test has called is an error too. pytest loads this file as a plugin, in each of its processes.
"""

import functools
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MORE = (
    "assignment_lists",
    "bindings",
    "cluster_memory_update",
    "cpp_memories",
    "knn_codes",
    "knn_float16",
    "knn_pairs",
    "sharded",
    "signals",
)
SLOW = "quick", "quadratic", "compiles", "contract", "1500", "2048", "reference", "any_small_set", "processes"
UNCALLED: set[str] = set()  # functions of the extension; those that no process has called, once all have ended


def main(folder: str) -> int | str:
    os.environ |= {"PYTEST_PLUGINS": "tests.sanitized", "SALCR_SANITIZED": folder}
    families = {path.stem.removeprefix("bind_") for path in ROOT.glob("csrc/bind_*.cpp")}.union(MORE)
    files = [path for family in sorted(families) if (path := ROOT / f"tests/ops/test_{family}.py").exists()]
    files.append(ROOT / "tests/kernels/test_emulated_assignment.py")  # which builds with SALCR_SANITIZE itself
    chosen = " and ".join(f"not {name}" for name in SLOW)
    side_by_side = ["--numprocesses", os.environ.get("JOBS", "1"), "--dist", "worksteal"]
    failed = pytest.main(["-q", "-p", "no:cacheprovider", *side_by_side, "-k", chosen, *map(str, files)])
    uncalled = sys.modules["tests.sanitized"].UNCALLED  # the plugin's: this module is called __main__
    return failed or (f"no test here calls {', '.join(sorted(uncalled))} of salcr._C" if uncalled else 0)


def pytest_load_initial_conftests():
    """Before any of them imports salcr._C."""
    UNCALLED.update(watch(extension(os.environ["SALCR_SANITIZED"])))


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["uncalled"] = sorted(UNCALLED)


def pytest_testnodedown(node):
    UNCALLED.intersection_update(node.workeroutput["uncalled"])


def extension(folder: str):
    """salcr._C of the installation in ``folder``, with everything else of salcr from here."""
    import salcr

    salcr.__path__.insert(0, f"{folder}/salcr")
    from salcr import _C

    salcr.__path__.pop(0)
    if Path(folder).resolve() not in Path(_C.__file__).resolve().parents:
        sys.exit(f"salcr._C came from {_C.__file__}")
    return _C


def watch(module) -> set[str]:
    """The names of the module's functions, of which each leaves the set when it is first called."""
    uncalled = {name for name, value in vars(module).items() if callable(value) and not name.startswith("_")}
    for name in tuple(uncalled):
        setattr(module, name, _recording(getattr(module, name), name))
    return uncalled


def _recording(function, name):
    @functools.wraps(function)
    def call(*arguments, **options):
        UNCALLED.discard(name)
        return function(*arguments, **options)

    return call


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
