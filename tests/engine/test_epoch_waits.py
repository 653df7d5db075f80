"""How often an epoch waits for a GPU outside of its steps, counted where there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.lanes import require_interpreter

ROOT = Path(__file__).resolve().parents[2]
FEATURES = {"_checks.check_all_lengths": 1}
LABELS = {
    "knn.search": 2,
    "jaccard_encodings._expanded": 2,
    "jaccard_encodings._averaged": 2,
    "jaccard.jaccard_graph": 4,
    "pseudo_labels.on_host": 1,
}
ASSOCIATION = {
    "propagation.means_of_neighbours": 1,
    "sinkhorn._check_range": 2,
    "sinkhorn.after": 2,
    "pseudo_labels.on_host": 1,
}
END = {"steps": {"steps.wait": 1}, "checkpoint": {"writing.snapshot": 1}}

require_interpreter()


@pytest.mark.long
def test_waits_of_an_epoch_outside_of_its_steps():
    """14 in stage one and 20 in stage two, by the function that waits."""
    done = subprocess.run([sys.executable, "-m", "tests.epoch_waits"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout).values()
    assert one == {"features": FEATURES, "labels": LABELS, **END}
    assert two == {"features": FEATURES, "labels": LABELS, "association": ASSOCIATION, **END}
    assert [sum(sum(of_phase.values()) for of_phase in stage.values()) for stage in (one, two)] == [14, 20]
