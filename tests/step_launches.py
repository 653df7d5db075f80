"""``python -m tests.step_launches``: launches of a step's losses, updates and optimiser on a GPU, without one.

The steps have SYSU-MM01's sizes and tensors without contents (see tests/counted_variants.py). It prints a JSON object:
by phase, launches of each Triton kernel and of each PyTorch operation that computes or copies. Reading a value back,
which would wait for the device, is an error. A fused operation on lists of tensors takes as many launches as its
arguments need: see ``several``.

Then it runs whole steps of either stage, from the images to the updates, and it is an error if one does not ask the GPU
for exactly what the one before did: the same operations and launches, with the same numbers, on the same memory, and
nothing of the host's memory. A CUDA graph replays a step on that condition.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from unittest import mock

import torch
from torch.utils._pytree import tree_leaves, tree_map

from tests.counted_variants import GPU, Shaped, Shaping  # first, to note the operators as they register

# isort: split
from salcr.data.augment import Augmentation
from salcr.engine import load_config
from salcr.engine.stage_one import of_batch, stage_one_losses, stage_one_step, update_stage_one_
from salcr.engine.stage_two import StageTwoObjective, stage_two_step, total
from salcr.engine.steps import BatchMemory, Loaded, draw_batch, training_views
from salcr.models import SALCRNetwork, TrainingFeatures
from salcr.nn import ClusterMemory
from salcr.objectives import CrossLabels

POSITIONS, WIDTH, PARTS = 144, 2048, 3
SIDES = {"visible": (22_258, 400), "infrared": (11_909, 380)}  # images and clusters
VIEWS = {"_unsafe_view", "alias", "as_strided", "chunk", "detach", "expand", "permute", "select", "slice", "split"}
VIEWS |= {"split_with_sizes", "squeeze", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view"}
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
FUSED = {"_fused_adam_": 4, "_foreach_add_": 1, "_foreach_copy_": 2}  # lists of tensors in a launch's arguments
PREPARATION = "preparation"  # a phase that nobody counts
FROM_HOST = {"to", "tensor", "as_tensor", "from_numpy"}
WAITING = {"_local_scalar_dense", "is_nonzero", "item", "nonzero", "equal"}


class Counting(Shaping):
    """Counts launches by phase."""

    def __init__(self):
        super().__init__()
        self.phases: dict[str, dict[str, Counter]] = {}
        self.work: list[tuple[str, object]] | None = None  # of the step under way
        self.made: dict[int, tuple[int, int]] = {}
        self.kept: list[torch.UntypedStorage] = []

    @contextmanager
    def step(self) -> Iterator[list[tuple[str, object]]]:
        """A step; its work."""
        self.work, self.made, self.kept = [], {}, []
        yield self.work
        self.work = None

    def phase(self, name: str) -> None:
        self.phases.pop(name, None)
        self.phases[name] = {"triton": Counter(), "torch": Counter()}

    def count(self, kind: str, name: str, launches: int = 1) -> None:
        if self.phases:
            [*self.phases.values()][-1][kind][name] += launches

    def note(self, name: str, given: object, found: object = ()) -> None:
        """Work of the step under way: its numbers, and of its tensors which memory it is and how it is seen."""
        if self.work is None:
            return
        tensors = [x for x in tree_leaves(given) if isinstance(x, torch.Tensor)]
        if name in FROM_HOST or not all(isinstance(x, Shaped) for x in tensors):
            raise RuntimeError(f"a step takes a tensor of the host: {name}")
        self.work.append((name, tree_map(self.place, given)))
        for n, x in enumerate(shaped(found)):
            if storage(x) not in map(storage, shaped(given)):
                self.made[storage(x)] = len(self.work), n
        self.kept += [x.held.untyped_storage() for x in shaped((given, found))]  # so that no other has its address

    def place(self, x: object) -> object:
        """Memory that was there before the step is known by its address, other memory by the work that made it."""
        if not isinstance(x, Shaped):
            return x
        where = self.made.get(storage(x), storage(x))
        return where, x.storage_offset(), tuple(x.shape), x.stride(), x.dtype

    def call(self, function, args, kwargs):
        if function is torch.Tensor.tolist and isinstance(args[0], Shaped):
            raise RuntimeError("a step reads values back")
        if function is torch.Tensor.to and kwargs.get("device") == GPU and not isinstance(args[0], Shaped):
            self.count("torch", "copy to the device")
        return super().call(function, args, kwargs)


def shaped(x: object) -> list[Shaped]:
    return [leaf for leaf in tree_leaves(x) if isinstance(leaf, Shaped)]


def storage(x: Shaped) -> int:
    return x.held.untyped_storage()._cdata


def several(*lists: list[torch.Tensor]) -> int:
    """Launches of PyTorch's fused operations on lists of tensors: MultiTensorApply.cuh, with 4 KB of arguments.

    A block takes a chunk of 65,536 elements; from CUDA 13 on a launch has seven times the room.
    """
    most_tensors, most_blocks = (110, 64, 48, 36, 30)[len(lists) - 1], 320
    launches = tensors = blocks = 0
    for x in lists[0]:
        tensors += 1
        chunks = -(-x.numel() // 65_536)
        for chunk in range(1, chunks + 1):
            blocks += 1
            if blocks == most_blocks or (tensors == most_tensors and chunk == chunks):
                launches += 1
                tensors, blocks = (0 if chunk == chunks else 1), 0
    return launches + (blocks > 0)


def main() -> None:
    mode, dispatch, make = Counting(), Shaped.__torch_dispatch__, Shaping.call

    def counted(function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in WAITING or (kwargs or {}).get("device") == torch.device("cpu"):
            raise RuntimeError(f"a step waits for the device: {name}")
        if name in FUSED:
            mode.count("torch", name, several(*args[: FUSED[name]]))
            mode.note(name, (args, kwargs))
            return None
        if function.namespace != "salcr" and name not in VIEWS | ALLOCATIONS:
            mode.count("torch", name)
        found = dispatch(function, types, args, kwargs)
        mode.note(str(function), (args, kwargs), found)
        return found

    def made(self, function, args, kwargs):
        found = make(self, function, args, kwargs)
        if kwargs.get("device") == GPU:
            mode.note(function.__name__, (), found)
        return found

    def launch(kernel, *args, grid, warmup, **kwargs):
        mode.count("triton", kernel.__name__)
        mode.note(kernel.__name__, (args, kwargs, grid))

    with (
        mode,
        mock.patch.object(Shaped, "__torch_dispatch__", staticmethod(counted)),
        mock.patch.object(Shaping, "call", made),
        mock.patch("triton.runtime.jit.JITFunction.run", launch),
    ):
        stage_one(mode)
        stage_two(mode)
        stage_two(mode, "bfloat16")
        optimise_network(mode)
        mode.phase(PREPARATION)
        for stage, precision in ((1, "float32"), (2, "float32"), (2, "bfloat16")):
            compare_steps(mode, stage, precision)
    del mode.phases[PREPARATION]
    print(json.dumps(mode.phases))


def stage_one(mode: Counting) -> None:
    """The losses, the backward pass to the features and the updates."""
    memories = [ClusterMemory(torch.empty(clusters, WIDTH, device=GPU)) for _, clusters in SIDES.values()]
    labels = [torch.zeros(images, dtype=torch.int64, device=GPU) for images, _ in SIDES.values()]
    rows = [torch.zeros(POSITIONS, dtype=torch.int64, device=GPU) for _ in SIDES]
    f = torch.empty(3 * POSITIONS, WIDTH, device=GPU, requires_grad=True)
    mode.phase("stage one: losses")
    losses = stage_one_losses(memories, f, of_batch(labels, rows))
    mode.phase("stage one: backward")
    sum(losses.values()).backward()
    mode.phase("stage one: updates")
    update_stage_one_(memories, f, of_batch(labels, rows))


def stage_two(mode: Counting, precision: str = "float32") -> None:
    """The same; the sum of the losses counts as one of them. The first step of an epoch is not counted."""
    mode.phase(PREPARATION)
    objective, labels = epoch_of_stage_two(precision, WIDTH)
    chosen = [torch.zeros(POSITIONS, dtype=torch.int64, device=GPU) for _ in SIDES]
    f = torch.empty(3 * POSITIONS, WIDTH, device=GPU, requires_grad=True)
    parts = torch.empty(PARTS, 3, 3 * POSITIONS, WIDTH, device=GPU, requires_grad=True)
    features = TrainingFeatures(f, parts)
    objective.losses(features, objective.queries(features, labels.of_batch(*chosen)))
    name = "stage two" if precision == "float32" else f"stage two in {precision}"
    mode.phase(f"{name}: losses")
    queries = objective.queries(features, labels.of_batch(*chosen))
    loss = total(objective.losses(features, queries))
    mode.phase(f"{name}: backward")
    loss.backward()
    orders = torch.zeros(sum(objective.orders(POSITIONS)), dtype=torch.int64, device=GPU)
    mode.phase(f"{name}: updates")
    objective.update_(features, queries, orders)


def optimise_network(mode: Counting) -> None:
    """The second step of Adam: the first makes the state."""
    mode.phase(PREPARATION)
    shapes = [x.shape for x in SALCRNetwork("resnet50", PARTS).parameters() if x.requires_grad]
    parameters = [torch.empty(shape, device=GPU, requires_grad=True) for shape in shapes]
    for x in parameters:
        x.grad = torch.empty(x.shape, device=GPU)
    optimiser = torch.optim.Adam(parameters, fused=True, weight_decay=5e-4)
    optimiser.step()
    mode.phase("optimiser")
    optimiser.step()


def epoch_of_stage_two(precision: str, width: int) -> tuple[StageTwoObjective, CrossLabels]:
    rows = {}
    for i, (name, (images, clusters)) in enumerate(SIDES.items()):
        rows[f"dagi.{name}.rows"] = torch.empty(clusters, width, device=GPU)
        rows[f"fgsal.{name}_to_{name}.rows"] = torch.empty(PARTS, clusters, width, device=GPU)
        rows[f"gpcr.{i}.whole.rows"] = torch.empty(images, width, device=GPU)
        rows[f"gpcr.{i}.parts.rows"] = torch.empty(PARTS, images, width, device=GPU)
    config = load_config(preset="sysu", overrides=[f"schedule.precision={precision}"])
    images = [images for images, _ in SIDES.values() for _ in range(2)]
    labels = CrossLabels(*(torch.zeros(count, dtype=torch.int64, device=GPU) for count in images))
    return StageTwoObjective.with_rows(config, rows), labels


def compare_steps(mode: Counting, stage: int, precision: str) -> None:
    """Three steps of an epoch, of a small network without autocast; the first one makes the optimiser's state."""
    network = SALCRNetwork("tiny", PARTS).to(GPU, memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam([x for x in network.parameters() if x.requires_grad], fused=True, weight_decay=5e-4)
    session = SimpleNamespace(optimiser=optimiser, autocast=nullcontext)
    orders = ()
    if stage == 1:
        network.parts.requires_grad_(False)
        memories = [ClusterMemory(torch.empty(clusters, network.width, device=GPU)) for _, clusters in SIDES.values()]
        labels = [torch.zeros(images, dtype=torch.int64, device=GPU) for images, _ in SIDES.values()]

        def step(*arguments):
            return stage_one_step(session, labels, memories, network, *arguments)
    else:
        objective, cross_labels = epoch_of_stage_two(precision, network.width)
        orders = objective.orders(POSITIONS)

        def step(*arguments):
            return stage_two_step(session, cross_labels, objective, network, *arguments)

    size, generator, memory, works = (288, 144), torch.Generator().manual_seed(0), BatchMemory(GPU), []
    stores = [torch.empty(images, *size, 3, dtype=torch.uint8, device=GPU) for images, _ in SIDES.values()]
    for _ in range(3):
        loaded = Loaded(tuple(torch.randint(10_000, (2, POSITIONS), generator=generator)), ())
        drawn = draw_batch(loaded, size, Augmentation(), generator, local_scaling=stage == 1, orders=orders)
        batch = memory.load(drawn)
        with mode.step() as work:
            step(training_views(batch, stores), batch)
        works.append(work)
    for one, other in zip(*works[1:], strict=True):
        if one != other:
            raise RuntimeError(f"stage {stage} in {precision}: a step asks for {other}, and the one before for {one}")


if __name__ == "__main__":
    main()
