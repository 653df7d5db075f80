"""``python -m tests.sanitized FOLDER``: the tests of the C++ backends, on the salcr._C of the installation in FOLDER.

``make sanitize`` installs one there that AddressSanitizer and UndefinedBehaviorSanitizer watch: the first error of
either ends the process.
"""

import sys
from pathlib import Path

import pytest

import salcr

FAMILIES = (
    "assignment",
    "centroids",
    "cluster_memory",
    "clustering",
    "dbscan",
    "jaccard",
    "memories_cpu",
    "neighbors",
    "propagation",
    "sinkhorn",
)


def main(folder: str) -> int:
    salcr.__path__.insert(0, f"{folder}/salcr")
    from salcr import _C

    salcr.__path__.pop(0)
    if Path(folder).resolve() not in Path(_C.__file__).resolve().parents:
        sys.exit(f"salcr._C came from {_C.__file__}")
    slow = ("quick", "quadratic", "contract", "1500", "2048", "reference", "any_small_set")
    chosen = " and ".join(f"not {name}" for name in slow)
    files = [f"tests/ops/test_{family}.py" for family in FAMILIES]
    files.append("tests/kernels/test_emulated_assignment.py")  # which builds with SALCR_SANITIZE itself
    return pytest.main(["-q", "-p", "no:cacheprovider", "-k", chosen, *files])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
