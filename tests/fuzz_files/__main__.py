"""``python -m tests.fuzz_files --files 10000 [--seed S] [--only KIND] [--first N]``: mutated files, read one by one.

The mutations of a kind are numbered; a number, a kind and a seed always give the same file. Exit code 1 if there is a
finding: a traceback, a process that died or does not answer, a message that does not name the file or advises to read
it unsafely, more memory than such a file can need, anything written outside of the file's folder.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests import forked
from tests.fuzz_files.kinds import KINDS
from tests.fuzz_files.worker import serve

TABLE = "tests.fuzz_files.kinds"
SECONDS = 60  # on a machine with other work to do


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_files", description=__doc__.partition(":")[2])
    parser.add_argument("--files", type=int, default=10_000, help="mutated files, over all kinds")
    parser.add_argument("--first", type=int, default=0, help="number of each kind's first mutation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, help="one kind alone")
    parser.add_argument("--keep", type=Path, help="folder for the files that are findings")
    options = parser.parse_args(arguments)
    kinds = {options.only: KINDS[options.only]} if options.only else KINDS
    names = list(kinds)
    cases = [(names[i % len(names)], options.first + i // len(names)) for i in range(options.files)]
    with tempfile.TemporaryDirectory(prefix="salcr-fuzz-") as room:
        folder = options.keep or Path(room)
        findings = run(cases, options.seed, folder)
    for (name, number), finding in findings.items():
        print(f"--- {name} {number} (--only {name} --first {number} --files 1 --seed {options.seed})\n{finding}\n")
    counts = Counter(name for name, _ in cases)
    print(f"{len(cases)} files ({', '.join(f'{name} {n}' for name, n in counts.items())}): {len(findings)} findings")
    return 1 if findings else 0


def run(
    cases: list[tuple[str, int]], seed: int, folder: Path, *, table: str = TABLE, seconds: float = SECONDS
) -> dict[tuple[str, int], str]:
    """The findings among ``cases``, each ``(kind, number)``; a process that dies is one, and is replaced.

    ``table`` is the module of the kinds, ``seconds`` what reading one file of a few kilobytes may take.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with forked.Worker(serve, table, seed, folder.resolve(), seconds=seconds) as worker:
        return {case: finding for case in cases if (finding := worker.ask(case)) is not None}


if __name__ == "__main__":
    sys.exit(main())
