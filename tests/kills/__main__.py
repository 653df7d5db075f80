"""Kill trainings at random moments and resume them.

    python -m tests.kills --kills 50 [--seed S]

See ``tests/kills/__init__.py``.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.engine.tree import tiny, write_tree
from tests.kills import killed_runs, run_cli


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        settings = tiny(write_tree(folder / "tree"), "schedule.iterations=4", "evaluation.refinements=[]")
        training = ["train", *settings, "evaluation.every=1", "checkpoints.keep.best=mAP"]
        if run_cli([*training, "--out", str(folder / "whole")], folder / "whole.log") != 0:
            raise ChildProcessError((folder / "whole.log").read_text())
        options = dict(kills=arguments.kills, seed=arguments.seed)
        for kill in killed_runs(training, folder / "whole", folder, **options):
            found.append(kill)
            outcome = kill.difference or "same end"
            print(f"{kill.number.name:7} at {kill.part:4.0%}, left {kill.newest:22} {outcome}", flush=True)
    counts = Counter(kill.number.name for kill in found)
    same = sum(not kill.difference for kill in found)
    print(f"seed {arguments.seed}: {same} of {len(found)} ended as the run that was not killed; {dict(counts)}")
    return same != len(found)


if __name__ == "__main__":
    sys.exit(main())
