"""``python -m tests.step_launches``: launches of a step's losses, updates and optimiser on a GPU, without one.

The steps have SYSU-MM01's sizes and tensors without contents (see tests/counted_variants.py). It prints a JSON object:
by phase, launches of each Triton kernel and of each PyTorch operation that computes or copies. Reading a value back,
which would wait for the device, is an error. A fused operation on lists of tensors takes as many launches as its
arguments need: see ``several``.
"""

import json
from collections import Counter
from unittest import mock

import torch

from tests.counted_variants import GPU, Shaped, Shaping  # first, to note the operators as they register

# isort: split
from salcr.engine import load_config
from salcr.engine.stage_one import of_batch, stage_one_losses, update_stage_one_
from salcr.engine.stage_two import StageTwoObjective, total
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
WAITING = {"_local_scalar_dense", "is_nonzero", "item", "nonzero", "equal"}


class Counting(Shaping):
    """Counts launches by phase."""

    def __init__(self):
        super().__init__()
        self.phases: dict[str, dict[str, Counter]] = {}

    def phase(self, name: str) -> None:
        self.phases.pop(name, None)
        self.phases[name] = {"triton": Counter(), "torch": Counter()}

    def count(self, kind: str, name: str, launches: int = 1) -> None:
        if self.phases:
            [*self.phases.values()][-1][kind][name] += launches

    def call(self, function, args, kwargs):
        if function is torch.Tensor.tolist and isinstance(args[0], Shaped):
            raise RuntimeError("a step reads values back")
        if function is torch.Tensor.to and kwargs.get("device") == GPU and not isinstance(args[0], Shaped):
            self.count("torch", "copy to the device")
        return super().call(function, args, kwargs)


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
    mode, dispatch = Counting(), Shaped.__torch_dispatch__

    def counted(function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in WAITING or (kwargs or {}).get("device") == torch.device("cpu"):
            raise RuntimeError(f"a step waits for the device: {name}")
        if name in FUSED:
            mode.count("torch", name, several(*args[: FUSED[name]]))
            return None
        if function.namespace != "salcr" and name not in VIEWS | ALLOCATIONS:
            mode.count("torch", name)
        return dispatch(function, types, args, kwargs)

    def launch(kernel, *args, grid, warmup, **kwargs):
        mode.count("triton", kernel.__name__)

    with (
        mode,
        mock.patch.object(Shaped, "__torch_dispatch__", staticmethod(counted)),
        mock.patch("triton.runtime.jit.JITFunction.run", launch),
    ):
        stage_one(mode)
        stage_two(mode)
        stage_two(mode, "bfloat16")
        optimise_network(mode)
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
    rows = {}
    for i, (name, (images, clusters)) in enumerate(SIDES.items()):
        rows[f"dagi.{name}.rows"] = torch.empty(clusters, WIDTH, device=GPU)
        rows[f"fgsal.{name}_to_{name}.rows"] = torch.empty(PARTS, clusters, WIDTH, device=GPU)
        rows[f"gpcr.{i}.whole.rows"] = torch.empty(images, WIDTH, device=GPU)
        rows[f"gpcr.{i}.parts.rows"] = torch.empty(PARTS, images, WIDTH, device=GPU)
    config = load_config(preset="sysu", overrides=[f"schedule.precision={precision}"])
    objective = StageTwoObjective.with_rows(config, rows)
    images = [images for images, _ in SIDES.values() for _ in range(2)]
    labels = CrossLabels(*(torch.zeros(count, dtype=torch.int64, device=GPU) for count in images))
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


if __name__ == "__main__":
    main()
