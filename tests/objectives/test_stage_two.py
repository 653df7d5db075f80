"""The whole stage-two objective: losses, gradients and updates of a step together, on a tiny batch."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from salcr.engine import load_config
from salcr.engine.stage_two import StageTwoObjective, total
from salcr.models import TrainingFeatures
from salcr.nn import ClusterMemory, InstanceMemory
from salcr.objectives import CrossLabels, GlobalObjective, PartObjective, RefinementObjective
from salcr.reference.published import objective as published
from tests.surroundings import SURROUNDINGS

PARTS, WIDTH, SAMPLES, CLUSTERS, IMAGES = 3, 24, 6, (5, 4), (70, 50)


class Step:
    """The objective of an epoch and one batch, as the trainer has them."""

    def __init__(self, seed, dtype=torch.float32, device="cpu"):
        self.generator = generator = torch.Generator().manual_seed(seed)

        def unit(*shape):
            return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1).to(device)

        self.images = [(unit(n, WIDTH), unit(PARTS, n, WIDTH)) for n in IMAGES]
        self.objective = StageTwoObjective(
            GlobalObjective(*(ClusterMemory(unit(k, WIDTH)) for k in CLUSTERS)),
            PartObjective(*(unit(PARTS, k, WIDTH) for k in CLUSTERS)),
            tuple(RefinementObjective(*rows, k=20) for rows in self.images),
            weight=0.5,
        )
        base = torch.randn(SAMPLES, WIDTH, generator=generator, dtype=dtype)
        noise = 0.4 * torch.randn(PARTS + 1, 3, 3 * SAMPLES, WIDTH, generator=generator, dtype=dtype)
        rows = base.repeat(3, 1) + noise
        self.features = TrainingFeatures(rows[0, 0].to(device), rows[1:].to(device))
        for x in self.features:
            x.requires_grad_()
        sides = (0, 1, 1, 0)
        labels = (torch.randint(CLUSTERS[s], (SAMPLES,), generator=generator) for s in sides)
        self.labels = CrossLabels(*(y.to(device) for y in labels))

    def memories(self):
        dagi, fgsal = self.objective.dagi, self.objective.fgsal
        return [memory.rows for memory in (dagi.visible, dagi.infrared, *fgsal.memories)]

    def loss(self, features, labels):
        return total(self.objective.losses(features, self.objective.queries(features, labels)))

    def orders(self):
        """What the objective draws for its updates."""
        numbers = (torch.randperm(n * SAMPLES, generator=self.generator) for n in (3, 6, 6, 3, 3))
        return [order.to(self.features.f.device) for order in numbers]

    @torch.no_grad()
    def update_(self, features, labels, order, *orders):
        self.objective.dagi.update_(features.f, labels, order)
        self.objective.fgsal.update_(self.objective.queries(features, labels).parts, orders)

    def run(self):
        """Loss, gradients and updated memories."""
        queries = self.objective.queries(self.features, self.labels)
        loss = total(self.objective.losses(self.features, queries))
        gradients = torch.autograd.grad(loss, self.features)
        self.objective.update_(self.features, queries, torch.cat(self.orders()))
        return loss, *gradients, *self.memories()


def starting_rows(step):
    """What the memories of ``step`` start from."""
    return {name: rows.clone() for name, rows in step.objective.state_dict().items()}


class Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.append(str(function))
        return function(*arguments, **(options or {}))


def run_published(step):
    """The same step by the published form."""
    rows, labels = [x.clone() for x in step.memories()], tuple(step.labels)
    loss = published.stage_two_loss(*step.features, labels, rows[:2], rows[2:], step.images, k=20)
    gradients = torch.autograd.grad(loss, step.features)
    with torch.no_grad():
        published.stage_two_update_(*step.features, labels, rows[:2], rows[2:], step.orders())
    return loss, *gradients, *rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_published_objective(seed, dtype):
    found, expected = Step(seed, dtype).run(), run_published(Step(seed, dtype))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
    assert expected[0] > 1 and expected[1].abs().max() > 1e-3


@pytest.mark.parametrize("given", ["schedule.precision=bfloat16", "objectives.precision=bfloat16"])
def test_a_run_in_bfloat16_rounds_what_contrasts_multiply(seed, given):
    """Losses of sets, which float32 decides, keep their bits. Cosines of the others are within 2⁻⁸: a loss is a
    difference of two, and there are two of these and four."""
    step = Step(seed)
    exact, rounded = (
        StageTwoObjective.with_rows(load_config(overrides=[*change, "gpcr.k=20"]), starting_rows(step))
        for change in ([], [given])
    )
    memories = [m for m in rounded.modules() if isinstance(m, (ClusterMemory, InstanceMemory))]
    assert len(memories) == 10 and {memory.precision for memory in memories} == {"bfloat16"}
    expected, found = (
        objective.losses(step.features, objective.queries(step.features, step.labels)) for objective in (exact, rounded)
    )
    for name in ("global_instance", "part_instance"):
        assert expected[name] > 0 and torch.equal(found[name], expected[name])
    for name, terms in (("global", 2), ("parts", 4)):
        assert found[name].dtype == torch.float32
        assert 0 < (found[name] - expected[name]).abs() < terms * 2 * 2**-8 / 0.05
    for x, y in zip(*(torch.autograd.grad(total(of), step.features) for of in (found, expected)), strict=True):
        assert x.dtype == torch.float32 and x.isfinite().all() and not torch.equal(x, y)


def test_instance_memories_stay_as_they_are(seed):
    step = Step(seed)
    before = {name: rows.clone() for name, rows in step.objective.gpcr.state_dict().items()}
    step.run()
    after = step.objective.gpcr.state_dict()
    assert len(after) == 4 and all(torch.equal(rows, before[name]) for name, rows in after.items())


def test_settings_of_a_run_reach_every_memory(seed):
    given = ["memory.momentum=0.3", "memory.temperature=0.07", "gpcr.k=7", "gpcr.weight=0.2"]
    objective = StageTwoObjective.with_rows(load_config(overrides=given), starting_rows(Step(seed)))
    memories = [m for m in objective.modules() if isinstance(m, (ClusterMemory, InstanceMemory))]
    found = [m.momentum if isinstance(m, ClusterMemory) else m.k for m in memories]
    assert found == [0.3] * 6 + [7] * 4 and {m.temperature for m in memories} == {0.07} and objective.weight == 0.2


def test_few_operators_are_dispatched(seed):
    """Losses, gradients, updates; the published form dispatches 157,000 at SYSU-MM01 sizes."""
    step = Step(seed)
    with Counter() as counter:
        step.run()
    assert len(counter.names) <= 80, counter.names
    assert not any(word in name for name in counter.names for word in ("item", "local_scalar", "nonzero"))


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
def test_it_compiles_whole(seed, device):
    step, plain = Step(seed, device=device), Step(seed, device=device)
    torch._dynamo.reset()
    loss, update_ = (torch.compile(f, fullgraph=True, backend="aot_eager") for f in (step.loss, step.update_))
    value = loss(step.features, step.labels)
    gradients = torch.autograd.grad(value, step.features)
    update_(step.features, step.labels, *step.orders())
    for x, expected in zip((value, *gradients, *step.memories()), plain.run(), strict=True):
        torch.testing.assert_close(x, expected)


def test_it_compiles_whole_where_a_program_has_a_default_device(seed):
    """Dynamo then traces the methods of tensors that are written in Python, which it cannot with all."""
    step = Step(seed)
    expected = step.loss(step.features, step.labels)
    with SURROUNDINGS["another device"]():
        found = torch.compile(step.loss, backend="eager", fullgraph=True)(step.features, step.labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.cuda
def test_a_cuda_graph_replays_it_whole(seed):
    """Losses, gradients and updates of two batches by one captured graph, as without it."""
    plain, step, other = (Step(n, device="cuda") for n in (seed, seed, seed + 1))
    orders = step.orders()
    start = [x.clone() for x in step.memories()]

    def run(step, orders):
        value = step.loss(step.features, step.labels)
        gradients = torch.autograd.grad(value, step.features)
        step.update_(step.features, step.labels, *orders)
        return value, *gradients

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(step, orders)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run(step, orders)
    for memory, rows in zip(step.memories(), start, strict=True):
        memory.copy_(rows)
    for batch in (step, other):
        for mine in (step, plain):
            with torch.no_grad():
                for x, y in zip((*mine.features, *mine.labels), (*batch.features, *batch.labels), strict=True):
                    x.copy_(y)
        graph.replay()
        expected = run(plain, orders)
        for x, y in zip((*found, *step.memories()), (*expected, *plain.memories()), strict=True):
            assert torch.equal(x, y)


@pytest.mark.cuda
def test_it_never_waits_for_the_device(seed):
    step = Step(seed, device="cuda")
    orders = step.orders()
    for mode in ("default", "error"):  # compiled in the first round
        torch.cuda.set_sync_debug_mode(mode)
        try:
            torch.autograd.grad(step.loss(step.features, step.labels), step.features)
            step.update_(step.features, step.labels, *orders)
        finally:
            torch.cuda.set_sync_debug_mode("default")
