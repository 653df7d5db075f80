"""What compiled kernels take, counted as some of their blocks are executed: ``python -m tests.kernels.counts NAME …``.

Names are those of :data:`tests.kernels.calls.CALLS`, whose inputs are zeros: what depends on them, such as how much a
search finds, is not what training finds. For each launch of one of them on sm_90 the table has the instructions, the
sectors of memory and the passes over shared memory, what an H100 needs for each at least, in microseconds, and the
lines of the source with the most instructions. No clock is read: nothing here waits, and ptxas is not asked.
"""

import argparse

from tests.kernels.calls import CALLS
from tests.kernels.executed import Counts, executed

BLOCKS = 4  # of a launch
MULTIPROCESSORS, CLOCK, BANDWIDTH = 132, 1.755e9, 3.0e12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", choices=sorted(CALLS), help=", ".join(sorted(CALLS)))
    for name in parser.parse_args().names:
        counts: list[Counts] = []
        with executed(90, counts=counts, blocks=BLOCKS):
            CALLS[name].run()
        print(name)
        for launch in counts:
            print(described(launch))


def described(launch: Counts) -> str:
    issued = launch.instructions / (4 * MULTIPROCESSORS * CLOCK)
    fetched, passed = 32 * launch.fewest_sectors / BANDWIDTH, launch.passes / (MULTIPROCESSORS * CLOCK)
    amounts = (
        f"{launch.instructions:,} instructions {1e6 * issued:.1f} µs",
        f"{launch.sectors:,} sectors of {launch.fewest_sectors:,} {1e6 * fetched:.1f} µs",
        f"{launch.passes:,} passes of {launch.fewest_passes:,} {1e6 * passed:.1f} µs",
    )
    lines = ", ".join(f"{line} {number:,}" for line, number in launch.lines.most_common(5))
    return f"  {launch.kernel}: {'; '.join(amounts)}\n    {lines}"


if __name__ == "__main__":
    main()
