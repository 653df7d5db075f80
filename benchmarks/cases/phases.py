"""Whole phases of an epoch at SYSU-MM01's sizes, as the engine runs them and as published code does.

The objective of a step alone is a phase too: :mod:`benchmarks.cases.stage_two`.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.case import Case, close
from benchmarks.cases import stage_two
from benchmarks.cases.pseudo_labels import EPS
from benchmarks.features import clustered, pedestrians
from salcr import ops
from salcr.data._layout import draw_trials
from salcr.data.records import Dataset, Protocol, Records
from salcr.engine.config import Evaluation
from salcr.engine.evaluation import RANKS, evaluate_protocol
from salcr.engine.stage_two import StageTwoObjective, total
from salcr.engine.steps import optimise
from salcr.models import SALCRNetwork
from salcr.nn import ClusterMemory
from salcr.objectives import CrossLabels, GlobalObjective, PartObjective, RefinementObjective, associate
from salcr.reference.published import association, clustering, objective, pooling, ranking

IMAGES = 22258, 11909
IMAGES_AN_IDENTITY = 56
SAMPLES_ON_CPU = 8


def _training_features(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    counts, width = ((400, 300), 64) if quick else (IMAGES, 2048)
    return tuple(pedestrians(count, width, seed=seed).to(device) for seed, count in enumerate(counts))


def _cluster(*modalities: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    labels = [ops.cluster(features, eps=EPS) for features in modalities]
    return [
        (y, F.normalize(ops.cluster_centroids(F.normalize(x, dim=1), y), dim=1))
        for x, y in zip(modalities, labels, strict=True)
    ]


def _same_clusters(outputs, expected) -> None:
    for (labels, centroids), (expected_labels, expected_centroids) in zip(outputs, expected, strict=True):
        assert torch.equal(labels.cpu(), expected_labels), f"{(labels.cpu() != expected_labels).sum()} labels differ"
        close(centroids.cpu(), expected_centroids)


def _clustered_modalities(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """Features and labels of both modalities, of the same identities; on the CPU a third of SYSU-MM01's images."""
    counts = (300, 200) if quick else IMAGES if device == "cuda" else tuple(count // 3 for count in IMAGES)
    inputs = []
    for seed, count in enumerate(counts, start=1):
        inputs.append(clustered(count, IMAGES_AN_IDENTITY, 256 if quick else 2048, device, seed))
        inputs.append(torch.arange(count, device=device) // IMAGES_AN_IDENTITY)
    return tuple(inputs)


def _same_cross_labels(outputs: CrossLabels, expected: tuple[torch.Tensor, ...]) -> None:
    for found, wanted in zip(outputs, expected, strict=True):
        assert torch.equal(found, wanted), f"{(found != wanted).sum()} of {len(wanted)} labels differ"


def _training_step(device: str, quick: bool) -> tuple:
    """Network, optimiser, the views of a batch, its labels, the memories of an epoch and the orders of their updates.

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
    made = stage_two.step_inputs(device, quick, sizes, samples, network.width)
    _, _, labels, memories, parts, images, orders = made
    losses = StageTwoObjective(
        GlobalObjective(*map(ClusterMemory, memories)),
        PartObjective(*parts[:2]),
        tuple(RefinementObjective(*rows) for rows in images),
        weight=0.5,
    )
    own_v, to_r, own_r, to_v = labels
    return network, optimiser, views, CrossLabels(own_v, to_r, own_r, to_v), losses, orders


def _published_step(network, optimiser, views, labels, losses, orders) -> list[torch.Tensor]:
    tokens, norm = network.parts.tokens, network.parts.norm
    pooled, *looked_up = pooling.semantic_pool(network.backbone(*views), tokens)
    f = network.norm(pooled)
    parts = torch.stack([norm(z.flatten(1)).unflatten(1, tokens.shape) for z in looked_up]).movedim(2, 0)
    memories, part_memories = _memories(losses)
    images = [(side.whole.rows, side.parts.rows) for side in losses.gpcr]
    loss = objective.stage_two_loss(f, parts, labels, memories, part_memories, images)
    optimise(optimiser, loss)
    with torch.no_grad():
        objective.stage_two_update_(f, parts, labels, memories, part_memories, orders)
    return [loss.detach(), f.detach(), tokens.grad, *memories, *part_memories]


def _engine_step(network, optimiser, views, labels, losses, orders) -> list[torch.Tensor]:
    """As :func:`salcr.engine.stage_two.stage_two_epoch` runs it, with given orders of the updates."""
    output = network(*views, with_parts=True)
    queries = losses.queries(output, labels)
    loss = total(losses.losses(output, queries))
    optimise(optimiser, loss)
    losses.dagi.update_(output.f, labels, orders[0])
    losses.fgsal.update_(queries.parts, orders[1:])
    memories, part_memories = _memories(losses)
    return [loss.detach(), output.f.detach(), network.parts.tokens.grad, *memories, *part_memories]


def _network_flops(network, optimiser, views, *epoch) -> int:
    """Forward of the backbone, and twice that backward."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.backbone(*views)
    return 3 * counter.get_total_flops()


def _same_step(outputs: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """Within 1e-4 of each tensor's largest magnitude, of which these layers lose 1e-3 by float32 (against float64)."""
    for x, y in zip(outputs, expected, strict=True):
        unit = y.abs().max()
        torch.testing.assert_close(x / unit, y / unit, rtol=0, atol=1e-4)


def _memories(losses: StageTwoObjective) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    banks, parts = losses.dagi, losses.fgsal
    return [banks.visible.rows, banks.infrared.rows], [bank.rows for bank in (parts.a, parts.b, parts.c, parts.e)]


def _evaluation(device: str, quick: bool) -> tuple[torch.Tensor, Dataset]:
    """Features of the test images, and both protocols' trials: all of four cameras, indoor of two.

    Of 384 pairs of an identity and a camera 301 have visible images, 112 of them indoors.
    """
    identities, infrared, shots, width = (12, 96, 2, 32) if quick else (96, 3803, 22, 2048)
    seen = [(i, cam) for i in range(identities) for cam in (1, 2, 4, 5) if not _unseen(i, cam)]
    pairs = np.repeat(np.array(seen), shots, axis=0)
    queries = np.arange(infrared)
    ids = np.concatenate([pairs[:, 0], queries % identities])
    cams = np.concatenate([pairs[:, 1], np.where(queries % 7 < 4, 6, 3)])
    is_infrared = np.arange(len(ids)) >= len(pairs)
    test = Records(Path(), tuple(map(str, range(len(ids)))), ids, cams, is_infrared)
    protocols = [
        Protocol(f"{search}-single", "sysu", draw_trials(test, cameras, infrared=False))
        for search, cameras in (("all", (1, 2, 4, 5)), ("indoor", (1, 2)))
    ]
    generator = torch.Generator().manual_seed(0)
    people = torch.randn(identities, width, generator=generator)[torch.from_numpy(ids)]
    features = F.normalize(people + 3 * torch.randn(people.shape, generator=generator), dim=1)
    nothing = test.subset([])
    return features.to(device), Dataset("sysu", Path(), nothing, nothing, test, tuple(protocols))


def _unseen(identity: int, camera: int) -> bool:
    return identity >= 56 if camera in (1, 2) else camera == 5 and identity >= 93


def _published_evaluation(features: torch.Tensor, dataset: Dataset) -> dict[str, dict[str, float]]:
    test, figures = dataset.test, {}
    for protocol in dataset.protocols:
        trials = [(trial.query, trial.gallery) for trial in protocol.trials]
        columns = features.cpu().numpy(), test.ids, test.cams
        cmc, *means = ranking.evaluate_trials(*columns, trials, protocol=protocol.rule)
        found = {f"rank-{rank}": cmc[rank - 1] for rank in RANKS} | dict(zip(("mAP", "mINP"), means, strict=True))
        figures[protocol.name] = {name: round(100 * float(value), 2) for name, value in found.items()}
    return figures


def _engine_evaluation(features: torch.Tensor, dataset: Dataset) -> dict[str, dict[str, float]]:
    settings = Evaluation(refinements=())
    return {p.name: evaluate_protocol(features, dataset, p, settings) for p in dataset.protocols}


def _same_figures(outputs: dict, expected: dict) -> None:
    """To the hundredth of a per cent that is reported."""
    assert outputs.keys() == expected.keys()
    for name in expected:
        for figure, value in expected[name].items():
            assert abs(outputs[name][figure] - value) < 0.011, f"{name} {figure}: {outputs[name][figure]} not {value}"


CASES = (
    Case(
        "clustering_phase",
        "features of 22,258 and 11,909 images of 2048 to labels and centroids (k1 30, k2 6, eps 0.6, min_samples 4)",
        _training_features,
        {"published": lambda *modalities: clustering.clustering_phase(modalities, eps=EPS), "auto": _cluster},
        _same_clusters,
        floor_bytes=lambda *modalities: sum(x.nbytes for x in modalities),
        floor_flops=lambda *modalities: sum(2 * len(x) * x.numel() for x in modalities),
        phase=True,
    ),
    Case(
        "association_phase",
        "propagation (k 30), refined labels, Sinkhorn both ways; 22,258 and 11,909 images of 2048 in clusters of 56 on "
        "a GPU, a third of them on the CPU",
        _clustered_modalities,
        {"published": association.associate, "auto": associate},
        _same_cross_labels,
        floor_bytes=lambda v, y_v, r, y_r: 2 * (v.nbytes + r.nbytes),
        floor_flops=lambda v, y_v, r, y_r: 2 * (len(v) * v.numel() + len(r) * (v.numel() + r.numel())),
        phase=True,
    ),
    Case(
        "training_step",
        "ResNet-50, all losses, backward, Adam and memory updates in float32, 288x144 images in three views: 144 a "
        f"view on a GPU, {SAMPLES_ON_CPU} on the CPU with a tenth of the instance memories",
        _training_step,
        {"published": _published_step, "auto": _engine_step},
        _same_step,
        floor_flops=_network_flops,
        phase=True,
    ),
    Case(
        "evaluation",
        "3,803 queries against 301 (all) and 112 (indoor) gallery images, ten trials each, from features of 2048",
        _evaluation,
        {"published": _published_evaluation, "auto": _engine_evaluation},
        _same_figures,
        phase=True,
    ),
)
