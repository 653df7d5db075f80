"""``python -m tests.epoch_waits``: how often the host waits for a GPU in an epoch outside of its steps, without one.

An epoch of either stage runs on a pretended GPU. Printed is a JSON object: by stage and phase, which functions wait how
often. A wait is what ``python -m benchmarks.epoch`` counts on a GPU: a call that synchronises.

Steps do no more here than take their images: tests/step_launches.py is about them. Not seen is what PyTorch does by
itself, such as its wait as the capture of a CUDA graph begins, and what the solvers of the associations ``hungarian``
and ``graph`` wait for. Some waits depend on the data: one for every ten steps of a transport plan after the first
eleven, and one for a modality with so many near pairs that they are counted first.
"""

import contextlib
import json
import tempfile
import traceback
from collections import Counter, defaultdict
from pathlib import Path
from unittest import mock

from tests.interpreted_gpu import interpreted_gpu  # first, to know the operators as they register

# isort: split
import salcr
from salcr.engine import load_config, profiling, stage_one, stage_two
from salcr.engine.run_folder import RunFolder
from salcr.engine.trainer import Trainer
from tests.engine.tree import tiny, with_channels, write_tree

PACKAGE = str(Path(salcr.__file__).parent)
SETTINGS = "device=cuda", "model.compile=false", "schedule.graph=off", "schedule.precision=float32"
SIZES = "schedule.iterations=1", "schedule.identities=2", "schedule.images=2", "schedule.stage_two_epochs=3"
EPOCHS = {"one": 0, "two": 3}  # neither the last of its stage, which is evaluated


def main() -> None:
    waits = defaultdict(lambda: defaultdict(Counter))
    places = ["", "between phases"]

    def note():
        caller = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)][-1]
        waits[places[0]][places[-1]][f"{Path(caller.filename).stem}.{caller.name}"] += 1

    @contextlib.contextmanager
    def phase(name):
        places.append(name)
        yield
        places.pop()

    with (
        tempfile.TemporaryDirectory() as folder,
        interpreted_gpu(note),
        with_channels(8),
        mock.patch.object(profiling, "phase", phase),
        mock.patch.object(stage_one, "stage_one_step", step),
        mock.patch.object(stage_two, "stage_two_step", step),
    ):
        config = load_config(overrides=tiny(write_tree(Path(folder) / "tree"), *SETTINGS, *SIZES))
        trainer = Trainer(config, RunFolder(Path(folder) / "run"))
        for places[0], epoch in EPOCHS.items():
            trainer._run_epoch(epoch)
        trainer.writer.wait()
    print(json.dumps({stage: waits[stage] for stage in EPOCHS}))


def step(session, labels, memories, network, inputs, batch):
    """In place of either stage's."""
    return {"visible": inputs[0].mean(), "infrared": inputs[1].mean()}


if __name__ == "__main__":
    main()
