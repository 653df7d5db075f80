"""Compare the backends of two operators on this machine: ``python examples/compare_backends.py --size 4000``.

``salcr bench`` does so for every operator, at the sizes of real runs.
"""

import argparse
from collections.abc import Callable

import torch
from torch.utils.benchmark import Timer

from salcr import ops

BACKENDS = ("reference", "cpp", "triton", "cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2000, help="features, and memory rows")
    size = parser.parse_args().size
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features, cost = torch.randn(size, 256, device=device), torch.rand(size // 4, size // 8, device=device)

    compare("knn", lambda impl: ops.knn(features, 30, impl=impl)[1].float())
    compare("bidirectional_assignment", lambda impl: ops.bidirectional_assignment(cost, impl=impl)[0].float())


def compare(name: str, run: Callable[[str], torch.Tensor]) -> None:
    """Print how long each backend takes that runs here, once its result is the reference's."""
    expected = run("reference")
    for impl in BACKENDS:
        try:
            result = run(impl)
        except ValueError as error:  # ops.BackendError is one
            print(f"{name:26} {impl:10} not here: {error}")
            continue
        same = (result == expected).float().mean().item()  # equal but for ties, which may be broken either way
        seconds = Timer("run(impl)", globals=dict(run=run, impl=impl)).blocked_autorange(min_run_time=0.2).median
        print(f"{name:26} {impl:10} {1e3 * seconds:9.2f} ms   {same:.1%} equal to the reference")


if __name__ == "__main__":
    main()
