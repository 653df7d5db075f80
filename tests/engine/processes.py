"""What the processes of test_distributed.py do, and the launcher that starts three of them as ``torchrun`` does.

They train in a group of three, then two of them in one of two, and leave what they find in files. In the end one kills
itself.
"""

import dataclasses
import json
import os
import signal
import sys
import warnings
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg  # its backend serves GPUs, without one

from salcr import cli, distributed
from salcr.engine import best, checkpoint, load_config, session, stage_one, train
from salcr.engine.evaluation import evaluate_checkpoint
from salcr.engine.interruption import STANDARD, Interrupted
from salcr.engine.run_folder import RunFolder
from salcr.engine.trainer import Trainer
from tests.engine.tree import tiny, with_channels

STEPS = 3  # an epoch; two epochs, one of either stage
DRIFTS = "the list of images", "memories.1.rows", "the random generator", "backbone.visible_stem.1.running_mean"


def settings(tree, *more):
    """Of a run in float64 whose batches of 12 positions two and three processes can share."""
    exact = "schedule.precision=float64", "schedule.images=3", f"schedule.iterations={STEPS}"
    short = "schedule.stage_one_epochs=1", "schedule.stage_two_epochs=1", "evaluation.refinements=[]"
    small = "data.height=32", "data.width=16", "model.parts=2"
    watched = "evaluation.every=1", "checkpoints.keep.best=mAP"
    return tiny(tree, *exact, *short, *small, *watched, *more)


def configuration(tree, *more):
    return load_config(overrides=settings(tree, *more))


def recorded(config, folder):
    """A training: losses and gradients of every step, and of every epoch the labels and what there is at its end."""
    epochs, steps = [], []
    add, run_steps = session.LossWatch.add, Trainer.run_steps
    with pytest.MonkeyPatch.context() as patch:

        def spied_add(self, *arguments):
            add(self, *arguments)
            steps[-1]["losses"] = self.values[-1]

        def spied_run_steps(self, epoch, state, step, **options):
            def spied(network, *arguments):
                losses = step(network, *arguments)
                named = self.network.named_parameters()
                steps.append({"gradients": {n: p.grad.clone() for n, p in named if p.grad is not None}})
                return losses

            result = run_steps(self, epoch, state, spied, **options)
            end = self.network.state_dict() | state.memories.state_dict(prefix="memories.")
            found = dict(labels=state.labels, generator=self.generator.get_state(), steps=steps.copy())
            epochs.append(found | {"end": {name: x.clone() for name, x in end.items()}})
            steps.clear()
            return result

        patch.setattr(session.LossWatch, "add", spied_add)
        patch.setattr(Trainer, "run_steps", spied_run_steps)
        summary = train(config, folder)
    return {"epochs": [dict(epoch, labels=tuple(epoch["labels"])) for epoch in epochs], "summary": summary}


@contextmanager
def at_step(number, action):
    """``action(generator)`` at the beginning of a step of the training inside."""
    draw, steps = session.draw_batch, []

    def acting(loaded, size, augmentation, generator, **options):
        steps.append(None)
        if len(steps) == number:
            action(generator)
        return draw(loaded, size, augmentation, generator, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "draw_batch", acting)
        yield


def terminate(_):
    signal.raise_signal(signal.SIGTERM)


def interrupt(config, folder, number=STEPS + 2):
    """A training that gets a SIGTERM in its second step of the second epoch."""
    with at_step(number, terminate), pytest.raises(Interrupted):
        train(config, folder)


@contextmanager
def group_of_two(rank, port, backend=None):
    """``torchrun``'s variables for a group of its own, and the group; with a ``backend`` a program's, which stays."""
    os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)
    variables = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in variables.items()})
    if backend is not None:
        dist.init_process_group(backend)
    with distributed.joined():
        yield
    if backend is not None:
        dist.destroy_process_group()


def met(rank, port):
    """What processes of a group of their own hear from each other."""
    with group_of_two(rank, port):
        return distributed.largest(rank)


def said_by_hosts(rank):
    """What the processes say to each other of what lies in the host's memory."""
    found = [distributed.on_first(lambda: rank + 5), distributed.largest(rank), distributed.in_turn(lambda: rank)]
    distributed.check_same({"x": torch.ones(3, device="cpu")})
    try:
        distributed.check_same({"x": torch.full((3,), float(rank), device="cpu")})
    except distributed.Drifted as error:
        found.append(str(error))
    return [*found, *distributed.spread(str, range(3))]


def drift(config, folder, what, rank):
    """The error of a training in which process 1 holds, or comes to hold, other numbers than process 0."""
    update, open_dataset, step = stage_one.update_memories_, session.open_dataset, stage_one.stage_one_step

    def opened(config):
        dataset = open_dataset(config)
        if rank == 1 and what == "the list of images":
            images = dataset.train_infrared
            dataset = dataclasses.replace(dataset, train_infrared=images.subset(range(len(images))[::-1]))
        return dataset

    def drifting(updates):
        update(updates)
        if rank == 1 and what == "memories.1.rows":
            updates[1].memory.rows[0] *= 1 + 2**-50

    def stepping(session, *arguments):
        if rank == 1 and what.endswith("running_mean"):
            session.network.get_buffer(what).mul_(1 + 2**-30)
        return step(session, *arguments)

    def draw(generator):
        if rank == 1 and what == "the random generator":
            torch.rand(1, generator=generator)

    with at_step(STEPS, draw), pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "open_dataset", opened)
        patch.setattr(stage_one, "update_memories_", drifting)
        patch.setattr(stage_one, "stage_one_step", stepping)
        with pytest.raises(distributed.Drifted) as caught:
            train(config, folder)
    return str(caught.value)


def only_the_first_writes(rank):
    """In the other processes whatever writes a run's files fails."""

    def forbidden(*_, **__):
        raise AssertionError(f"process {rank} writes")

    patch = pytest.MonkeyPatch()
    for name in ("save_epoch", "prune"):
        patch.setattr(checkpoint, name, forbidden)
    patch.setattr(best, "save_best", forbidden)
    for name in ("log", "write_summary", "rewind", "clear", "locked"):
        patch.setattr(RunFolder, name, forbidden)
    patch.setattr("salcr.engine.trainer.write_atomically", forbidden)


def main(tree, folder, port):
    rank, config, said = int(os.environ["RANK"]), configuration(tree), {}
    for number, handler in STANDARD.items():  # not the launcher's, which a fork inherits
        signal.signal(number, handler)
    warnings.simplefilter("error")
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_deterministic_debug_mode("error")
    if rank:
        only_the_first_writes(rank)
    with distributed.joined():
        torch.save(recorded(config, folder / "three"), folder / f"three_{rank}.pt")
        try:
            train(configuration(tree, "schedule.identities=5", "schedule.images=2"), folder / "refused")
        except (ValueError, SystemExit) as error:
            said["refused"] = repr(error)
    if rank < 2:
        with group_of_two(rank, port):
            torch.save(recorded(config, folder / "two"), folder / f"two_{rank}.pt")
            said["evaluated"] = evaluate_checkpoint(folder / "two/checkpoints/epoch_0001.pt")
            train(config, folder / "interrupted_alone", resume=True)
            for what in DRIFTS:
                said[what] = drift(config, folder / what, what, rank)
            interrupt(config, folder / "interrupted", *([] if rank else [-1]))  # only one of the two gets the signal
        said["one group after the other"] = [met(rank, port) for _ in range(10)]
        with group_of_two(rank, port, "cuda:fake"), torch.device("meta"):  # a program may have such a default device
            said["of hosts"] = said_by_hosts(rank)
    (folder / f"said_{rank}.json").write_text(json.dumps(said))
    if rank == 2:
        signal.pause()
    with group_of_two(rank, port + 1), at_step(2, lambda _: os.kill(os.getpid(), signal.SIGKILL) if rank else None):
        sys.argv = ["salcr", "train", "--out", str(folder / "killed"), *settings(tree)]
        try:
            cli.main()
        finally:
            signal.pause()  # until the launcher ends it: that names one process alone, the first that it finds gone


def launch(tree, folder, port):
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    one_node = dict(min_nodes=1, max_nodes=1, rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id="processes")
    config = LaunchConfig(nproc_per_node=3, max_restarts=0, start_method="fork", **one_node)
    with with_channels(8):
        elastic_launch(config, main)(tree, folder, port)
