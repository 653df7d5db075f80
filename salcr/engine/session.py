"""What an epoch of either stage works with: network, optimiser, random generator, images and labels of a run."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from salcr import distributed
from salcr.data.augment import Augmentation
from salcr.data.resident import resident
from salcr.engine import profiling, tensorboard
from salcr.engine.config import Config, Schedule
from salcr.engine.images import open_dataset, open_images, shows_bars
from salcr.engine.interruption import Signals
from salcr.engine.network import build_network, compile_for_training
from salcr.engine.pseudo_labels import label_metrics, pseudo_labels
from salcr.engine.step_graph import StepGraphs
from salcr.engine.steps import Batch, BatchMemory, LossWatch, Rows, draw_batch, load_batches, training_views
from salcr.models import Embedding
from salcr.models.features import (
    autocast,
    extract_features,
    for_features,
    network_precision,
    parameter_dtype,
    pick_device,
    to_device,
)
from salcr.nn import synchronised
from salcr.objectives import association_named
from salcr.ops._checks import check_all_lengths

Step = Callable[[nn.Module, tuple[torch.Tensor, torch.Tensor], Batch], dict[str, torch.Tensor]]


class EpochState(NamedTuple):
    """What the steps of an epoch work with, beside the network, the optimiser and the random generator."""

    labels: tuple[torch.Tensor, ...]  # of all images, on the CPU
    memories: nn.Module  # a memory of each modality or, in stage two, its objective; the steps change them
    batches: list[Rows]


class EpochInterrupted(Exception):
    """A signal came in the middle of an epoch; ``middle`` is what its last steps need, in plain values and tensors."""

    def __init__(self, middle: dict[str, Any], steps: int) -> None:
        super().__init__(f"after {steps} steps")
        self.middle, self.steps = middle, steps


class Session:
    """The state of a run in memory; :mod:`salcr.engine.trainer` schedules its epochs and keeps it on disk."""

    def __init__(self, config: Config, signals: Signals | None = None) -> None:
        distributed.on_first(lambda: _check(config))
        self.config = config
        self.signals = signals or Signals()
        self.middle: dict[str, Any] | None = None  # of the next epoch, where it was interrupted
        self.device = pick_device(config.device)
        self.graphs = StepGraphs(config.schedule.graph, self.device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.dataset = distributed.in_turn(lambda: open_dataset(config))
        sides = self.dataset.train_visible, self.dataset.train_infrared
        network = build_network(config.model, self.generator)  # before images are decoded: its files may be missing
        compile_for_training(network, config.model.compile, self.device)
        self.images = tuple(open_images(records, config) for records in sides)
        self.stores = resident(self.images, self.device, config.data.resident)
        self.paths = tuple(records.paths for records in sides)
        self.augmentation = Augmentation(**config.augment.model_dump())
        self.precision = network_precision(config.schedule.precision, self.device)
        self.dtype = parameter_dtype(self.precision)
        self.network = synchronised(network.to(self.device, self.dtype, memory_format=torch.channels_last))
        distributed.check_same({"the list of images": _digest(self.paths)} | self.network.state_dict())
        self.parallel = self.network  # its DistributedDataParallel, of several processes
        self.trained: tuple[bool, ...] = ()  # which parameters required a gradient when that was made
        self.optimiser = self.fresh_optimiser()
        self.labels: tuple[torch.Tensor, torch.Tensor] | None = None  # on the CPU
        self.times: dict[str, float] = {}
        self.profiler: profiling.Profiler | None = None
        self.left = ""  # what is said of the time that the whole run will still take
        self.wants_views = False  # a picture of a batch's
        self.views: np.ndarray | None = None

    def extract(self) -> tuple[Embedding, Embedding]:
        """Evaluation features of all training images, visible and infrared.

        Raises:
            ValueError: a feature is NaN or infinite.
        """
        with for_features(self.network):
            features = tuple(
                extract_features(
                    self.network,
                    images,
                    infrared=infrared,
                    batch=self.config.evaluation.batch,
                    device=self.device,
                    precision=self.precision,
                )
                for images, infrared in zip(self.stores, (False, True), strict=True)
            )
        sides = {f"{name} features": side.f for name, side in zip(("visible", "infrared"), features, strict=True)}
        distributed.on_first(lambda: check_all_lengths(sides))
        return features

    def update_labels(self, visible: torch.Tensor, infrared: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pseudo labels of both modalities, of :meth:`extract`'s features; the previous ones stay where that fails."""
        sides = {"visible": visible, "infrared": infrared}
        self.labels = distributed.on_first(lambda: pseudo_labels(sides, self.config.clustering, self.labels))
        return self.labels

    def label_metrics(self) -> dict[str, dict[str, Any]]:
        """Of the labels of both modalities; see :func:`salcr.engine.pseudo_labels.label_metrics`."""
        sides = {"visible": self.dataset.train_visible, "infrared": self.dataset.train_infrared}
        return distributed.on_first(
            lambda: {name: label_metrics(y, sides[name].ids) for name, y in zip(sides, self.labels, strict=True)}
        )

    def to_device(self, labels: Iterable[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Copies of labels where the steps take them from."""
        return tuple(to_device(y, self.device) for y in labels)

    def batch_plan(self) -> dict[str, Any]:
        """How the samplers of either stage draw: batches an epoch, their shape, the random generator."""
        schedule = self.config.schedule
        shape = dict(iterations=schedule.iterations, identities=schedule.identities, images=schedule.images)
        return shape | {"generator": self.generator}

    @property
    def positions(self) -> int:
        """Of a batch, in all processes."""
        return self.config.schedule.identities * self.config.schedule.images

    def run_steps(
        self,
        epoch: int,
        state: EpochState,
        step: Step,
        *,
        local_scaling: bool,
        orders: Sequence[int] = (),
        unused: Iterable[nn.Module] = (),
    ) -> dict[str, float]:
        """Train on each batch of ``state``, with a progress bar on a terminal; returns the mean of each loss.

        Args:
            epoch: named in the bar and in errors.
            state: the epoch's. With ``self.middle`` its first steps, whose losses that holds, are done already.
            step: takes the network, its inputs and the batch on the device, trains, returns its losses. Of several
                processes each has inputs of its share of the batch, and the rows of all. It asks for no value and uses
                nothing of the host that changes from step to step: it may be replayed, see
                :mod:`salcr.engine.step_graph`.
            local_scaling: see :meth:`salcr.data.augment.Augmentation.visible`.
            orders: lengths of the random orders that the step wants.
            unused: parts of the network that get no gradient from these losses.

        Raises:
            NonFiniteLoss: a loss became NaN or infinite.
            EpochInterrupted: a signal has come and there are steps left.
            Drifted: several processes do not hold the same network, memories and generator any more.

        ``self.signals`` is on hold from the first step on: the caller releases it when the epoch is on disk.
        """
        from tqdm import tqdm

        watch, batches, done = LossWatch(epoch, self.paths), state.batches, 0
        if self.middle is not None:
            watch.resume(self.middle["losses"], batches, self.device)
            done, self.times, self.middle = len(watch.values), self.middle["seconds"], None
        title = f"epoch {epoch}" + (f", {self.left} of the run" if self.left else "")
        coming = load_batches(batches[done:], self.stores[0], self.stores[1], self.device)
        bar = tqdm(coming, title, len(batches), leave=False, initial=done, disable=not shows_bars())
        self.signals.hold()
        drawing = dict(local_scaling=local_scaling, orders=orders)
        size, memory = self.stores[0].shape[1:3], BatchMemory(self.device)

        def inputs() -> tuple[torch.Tensor, torch.Tensor]:
            visible, infrared = training_views(memory.batch, self.stores)
            return visible.to(self.dtype), infrared.to(self.dtype)

        with ExitStack() as stack:
            stack.enter_context(self.timed("steps"))
            network = stack.enter_context(self._in_training(unused))
            losses = self.graphs.losses(lambda: step(network, inputs(), memory.batch), self.optimiser)
            stack.enter_context(closing(losses))
            for loaded in bar:
                with profiling.phase(profiling.STEP):
                    memory.load(draw_batch(loaded, size, self.augmentation, self.generator, **drawing))
                    if self.wants_views:
                        self.views, self.wants_views = tensorboard.views_sheet(inputs()), False
                    watch.add(next(losses), loaded.rows)
                if self.profiler is not None:
                    self.profiler.after_step()
                done += 1
                if not bar.disable and watch.recent is not None:
                    bar.set_postfix(loss=f"{watch.recent:.3f}", refresh=False)
                if self.signals.anywhere():
                    break
            means = watch.means()
        changing = self.network.state_dict() | state.memories.state_dict(prefix="memories.")
        distributed.check_same(changing | {"the random generator": self.generator.get_state()})
        if done < len(batches):
            middle = {
                "labels": tuple(state.labels),
                "memories": state.memories.state_dict(),
                "batches": batches,
                "losses": watch.so_far(),
                "seconds": self.times,
            }
            raise EpochInterrupted(middle, done)
        return means

    @contextmanager
    def _in_training(self, unused: Iterable[nn.Module]) -> Iterator[nn.Module]:
        """The network for the steps of an epoch, without gradients of the ``unused`` modules."""
        self.network.train()
        frozen = [p for module in unused for p in module.parameters() if p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        if self.trained != (trained := tuple(p.requires_grad for p in self.network.parameters())):
            self.parallel, self.trained = distributed.data_parallel(self.network), trained
        try:
            yield self.parallel
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def autocast(self) -> AbstractContextManager:
        """The network's arithmetic at the configured precision."""
        return autocast(self.device, self.precision)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds of the block to ``times[phase]``; what a GPU still has to do then counts in the next."""
        begin = time.perf_counter()
        with profiling.phase(phase):
            yield
        self.times[phase] = self.times.get(phase, 0.0) + time.perf_counter() - begin

    def fresh_optimiser(self) -> torch.optim.Optimizer:
        schedule = self.config.schedule
        trained = [p for p in self.network.parameters() if p.requires_grad]
        fused = True if self.device.type == "cuda" else None
        return torch.optim.Adam(trained, lr=schedule.lr, weight_decay=schedule.weight_decay, fused=fused)

    def load_optimiser(self, state: dict[str, Any]) -> None:
        """Go on with the moments in ``state``; the options stay those of this device and configuration."""
        own = self.optimiser.state_dict()["param_groups"]
        groups = [a | {"params": b["params"]} for a, b in zip(own, state["param_groups"], strict=True)]
        self.optimiser.load_state_dict({"state": state["state"], "param_groups": groups})

    def begin_stage_two(self) -> None:
        """A fresh optimiser, fresh part tokens and part norm (stage one gives them no gradient)."""
        self.network.parts.reset_parameters(self.generator)
        self.optimiser = self.fresh_optimiser()
        self.graphs.begin_stage()

    def set_learning_rate(self, epoch: int) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config.schedule, epoch)


def learning_rate(schedule: Schedule, epoch: int) -> float:
    """That of ``epoch``, counted over both stages."""
    return schedule.lr * schedule.gamma ** sum(epoch >= milestone for milestone in schedule.milestones)


def stage_of(schedule: Schedule, epoch: int) -> int | None:
    """1 or 2; None after the last epoch."""
    if epoch < schedule.stage_one_epochs:
        return 1
    return 2 if epoch < schedule.epochs else None


def _check(config: Config) -> None:
    """What ends a run before it starts: an unknown association, no TensorBoard, a batch that has no equal shares."""
    association_named(config.dagi.association)
    if config.logging.tensorboard:
        tensorboard.require()
    identities, images, processes = config.schedule.identities, config.schedule.images, distributed.world()
    if identities * images % processes:
        raise ValueError(
            f"{processes} processes cannot share {identities * images} batch positions (schedule.identities "
            f"{identities} x schedule.images {images}) equally"
        )


def _digest(paths: tuple[tuple[str, ...], ...]) -> torch.Tensor:
    digest = hashlib.sha256(repr(paths).encode(errors="surrogateescape")).digest()
    return torch.frombuffer(bytearray(digest), dtype=torch.int64)
