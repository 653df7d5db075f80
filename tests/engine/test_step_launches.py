"""What a training step asks of a GPU, counted where there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_launches_of_the_losses_updates_and_optimiser_of_a_step():
    """It also fails where they wait for the device."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.step_launches"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    phases = json.loads(done.stdout)
    found = {name: {kind: sum(counts.values()) for kind, counts in kinds.items()} for name, kinds in phases.items()}
    assert found == {
        "losses": {"triton": 20, "torch": 22},
        "backward": {"triton": 5, "torch": 6},
        "updates": {"triton": 1, "torch": 3},
        "optimiser": {"triton": 0, "torch": 7},
    }, phases
