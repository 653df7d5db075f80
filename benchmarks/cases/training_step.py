"""A whole training step of stage two at SYSU-MM01's sizes, as the engine runs it and around published losses."""

import torch
from torch.utils.flop_counter import FlopCounterMode

import salcr
from benchmarks.case import Case
from benchmarks.cases import stage_two
from benchmarks.cases.phases import IMAGES
from salcr.engine.stage_two import StageTwoObjective, total
from salcr.engine.steps import optimise
from salcr.models import SALCRNetwork
from salcr.reference.published import objective, pooling

SAMPLES_ON_CPU = 8
TOKENS_GRADIENT = 2  # among a step's results


def step_inputs(device: str, quick: bool) -> tuple:
    """Network, optimiser, the views of a batch, its labels, the modules of an epoch and the orders of their updates.

    The learning rate is 0: the optimiser does all its work, and every run starts from the same weights.
    """
    samples, height = 144 if device == "cuda" else SAMPLES_ON_CPU, 48 if quick else 288
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SALCRNetwork("tiny" if quick else "resnet50")
        views = [torch.randn(count, 3, height, height // 2) for count in (2 * samples, samples)]
    views = [view.to(device, memory_format=torch.channels_last) for view in views]
    network = network.train().to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.0, weight_decay=5e-4)
    sizes = IMAGES if device == "cuda" else tuple(count // 10 for count in IMAGES)
    _, labels, modules, orders = stage_two.step_inputs(device, quick, sizes, samples, network.width)
    modules = StageTwoObjective(*modules, weight=stage_two.WEIGHT)
    return network, optimiser, views, labels, modules, orders


def published_forward(network: SALCRNetwork, views: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Global features ``[3S, D]`` and part features ``[P, 3, 3S, D]``."""
    tokens, norm = network.parts.tokens, network.parts.norm
    with salcr.use_backend("eager"):  # PyTorch's batch norm, sum and ReLU
        maps = network.backbone(*views)
    pooled, *looked_up = pooling.semantic_pool(maps, tokens)
    parts = torch.stack([norm(z.flatten(1)).unflatten(1, tokens.shape) for z in looked_up]).movedim(2, 0)
    return network.norm(pooled), parts


def _published_step(network, optimiser, views, labels, modules, orders) -> list[torch.Tensor]:
    f, parts = published_forward(network, views)
    memories, part_memories = stage_two.memories(modules)
    loss = objective.stage_two_loss(f, parts, labels, memories, part_memories, stage_two.images_of(modules))
    optimise(optimiser, loss)
    with torch.no_grad():
        objective.stage_two_update_(f, parts, labels, memories, part_memories, orders)
    return [loss.detach(), f.detach(), network.parts.tokens.grad, *memories, *part_memories]


def _engine_step(network, optimiser, views, labels, modules, orders) -> list[torch.Tensor]:
    """As :func:`salcr.engine.stage_two.stage_two_epoch` runs it, with given orders of the updates."""
    output = network(*views, with_parts=True)
    queries = modules.queries(output, labels)
    loss = total(modules.losses(output, queries))
    optimise(optimiser, loss)
    stage_two.update_(modules, output.f, labels, queries.parts, orders)
    memories, part_memories = stage_two.memories(modules)
    return [loss.detach(), output.f.detach(), network.parts.tokens.grad, *memories, *part_memories]


def _network_flops(network, optimiser, views, *epoch) -> int:
    """Forward of the backbone, and twice that backward."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.backbone(*views)
    return 3 * counter.get_total_flops()


def same_step(outputs: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """Within 2e-2 of each tensor's largest magnitude, and the tokens' gradient within 0.1.

    The norms that PyTorch makes on a CPU lose as much: against either step of the inputs in float64, 2e-3 of the
    features and 8e-2 of that gradient, where the engine's lose 2e-4 and 7e-4.
    """
    for n, (x, y) in enumerate(zip(outputs, expected, strict=True)):
        unit = y.abs().max()
        torch.testing.assert_close(x / unit, y / unit, rtol=0, atol=0.1 if n == TOKENS_GRADIENT else 2e-2)


CASES = (
    Case(
        "training_step",
        "ResNet-50, all losses, backward, Adam and memory updates in float32, 288x144 images in three views: 144 a "
        f"view on a GPU, {SAMPLES_ON_CPU} on the CPU with a tenth of the instance memories",
        step_inputs,
        {"published": _published_step, "auto": _engine_step},
        same_step,
        floor_flops=_network_flops,
        phase=True,
    ),
)
