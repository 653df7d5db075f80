"""Phases of a SYSU-MM01 epoch of stage two that need its images, without the data set: random pixels and labels.

What an epoch computes of features alone are the other phases: labels (``clustering_phase``) and association
(``association_phase``) of :mod:`benchmarks.cases.phases`. A GPU has all images and a thirtieth of the steps, the CPU a
small share of both.
"""

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.case import Case
from benchmarks.cases import stage_two, training_step
from benchmarks.cases.phases import IMAGES
from salcr.data.augment import Augmentation
from salcr.data.samplers import stage_two_batches
from salcr.engine.stage_two import StageTwoObjective, total
from salcr.engine.steps import (
    BatchMemory,
    LossWatch,
    draw_batch,
    load_batches,
    optimise,
    share_of,
    training_views,
)
from salcr.models import SALCRNetwork
from salcr.models.features import extract_features
from salcr.objectives import CrossLabels
from salcr.objectives.fgsal import random_orders
from salcr.reference.published import augmentation, objective

STEPS_ON_GPU, STEPS_ON_CPU = 10, 2
IMAGES_ON_CPU = 24  # of either modality, for features
BATCH = 256
PUBLISHED_BATCH = 64
CLUSTERS = 400, 7  # on a GPU, elsewhere


def _stores(counts: tuple[int, int], height: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (count, height, height // 2, 3), np.uint8) for count in counts]


def _feature_inputs(device: str, quick: bool) -> tuple:
    """A network and the images of both modalities, on the device as training has them there."""
    counts, height = (5, 4) if quick else IMAGES if device == "cuda" else (IMAGES_ON_CPU,) * 2, 48 if quick else 288
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SALCRNetwork("tiny" if quick else "resnet50").eval()
    network = network.to(device, memory_format=torch.channels_last)
    return network, *(torch.from_numpy(store).to(device) for store in _stores(counts, height))


def _features(network: SALCRNetwork, *stores: torch.Tensor) -> list[torch.Tensor]:
    found = []
    for infrared, images in enumerate(stores):
        options = dict(infrared=bool(infrared), batch=BATCH, device=images.device)
        found += extract_features(network, images, **options)
    return found


@torch.no_grad()
def _published_features(network: SALCRNetwork, *stores: torch.Tensor) -> list[torch.Tensor]:
    """Small batches that are normalised on the CPU, the network as it was trained, results collected on the CPU."""
    found = []
    for infrared, images in enumerate(stores):
        rows = []
        for batch in images.cpu().split(PUBLISHED_BATCH):
            embedding = network.embed(augmentation.augment(batch).to(images.device), infrared=bool(infrared))
            rows.append([F.normalize(x).cpu() for x in embedding])
        found += [torch.cat(parts).to(images.device) for parts in zip(*rows, strict=True)]
    return found


def _same(outputs: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """As a step's; on a GPU, where convolutions round what differs to TF32, within four epsilons of that."""
    if not expected[0].is_cuda:
        training_step.same_step(outputs, expected)
        return
    for x, y in zip(outputs, expected, strict=True):
        unit = y.abs().max()
        torch.testing.assert_close(x / unit, y / unit, rtol=0, atol=4 * 2**-10)


def _epoch_inputs(device: str, quick: bool) -> tuple:
    """Stores and labels of all images beside what :mod:`benchmarks.cases.training_step` has."""
    network, optimiser, views, _, modules, _ = training_step.step_inputs(device, quick)
    positions, height = len(views[1]), views[1].shape[2]
    del views
    large = device == "cuda" and not quick
    counts, clusters = (IMAGES, CLUSTERS[0]) if large else ((80, 70), CLUSTERS[1])
    stores = [torch.from_numpy(store).to(device) for store in _stores(counts, height)]
    own, across = ([torch.arange(count, device=device) // k % clusters for count in counts] for k in (1, 3))
    labels = CrossLabels(own[0], across[0], own[1], across[1])
    return network, optimiser, modules, labels, stores, STEPS_ON_GPU if large else STEPS_ON_CPU, positions


def _batches(labels: CrossLabels, steps: int, positions: int, generator: torch.Generator) -> list:
    own_v, to_r, own_r, to_v = (y.cpu() for y in labels)
    images = min(12, positions // 4)
    shape = dict(iterations=steps, identities=positions // images, images=images)
    return list(stage_two_batches(own_v, to_v, to_r, own_r, **shape, generator=generator))


def _engine_epoch(network, optimiser, modules, labels, stores, steps, positions) -> list[torch.Tensor]:
    """As :meth:`salcr.engine.session.Session.run_steps` trains; the network is not compiled."""
    generator, device = torch.Generator().manual_seed(0), stores[0].device
    watch, values = LossWatch(0, ((), ())), []
    memory, size, orders = BatchMemory(device), stores[0].shape[1:3], modules.orders(positions)
    for loaded in load_batches(_batches(labels, steps, positions, generator), *stores, device):
        drawn = draw_batch(loaded, size, Augmentation(), generator, local_scaling=False, orders=orders)
        batch = memory.load(drawn)
        output = network(*training_views(batch, stores), with_parts=True)
        queries = modules.queries(output, labels.of_batch(*share_of(batch.rows)))
        terms = modules.losses(output, queries)
        optimise(optimiser, total(terms))
        modules.update_(output, queries, batch.orders)
        watch.add(terms, loaded.rows)
        values.append(total(terms).detach())
    watch.means()
    return _results(values, modules)


def _published_epoch(network, optimiser, modules, labels, stores, steps, positions) -> list[torch.Tensor]:
    """Views are made image after image on the CPU and copied; the losses are read after every step."""
    generator, device = torch.Generator().manual_seed(0), stores[0].device
    hosts, made, values = [store.cpu() for store in stores], Augmentation(), []
    memories, part_memories = stage_two.memories(modules)
    for rows in _batches(labels, steps, positions, generator):
        visible, infrared = (host[index] for host, index in zip(hosts, rows, strict=True))
        size = (len(visible), *visible.shape[1:3], generator)
        plain, augmented, other = made.visible(*size), made.channel_augmented(*size), made.infrared(*size)
        first = torch.cat([augmentation.augment(visible, draws.table) for draws in (plain, augmented)])
        views = [view.to(device) for view in (first, augmentation.augment(infrared, other.table))]
        f, parts = training_step.published_forward(network, views)
        batch = labels.of_batch(*(index.to(device) for index in rows))
        loss = objective.stage_two_loss(f, parts, batch, memories, part_memories, stage_two.images_of(modules))
        optimise(optimiser, loss)
        values.append(torch.tensor(loss.item(), device=device))
        lengths = modules.orders(positions)
        orders = random_orders(lengths, generator).to(device).split(lengths)
        with torch.no_grad():
            objective.stage_two_update_(f, parts, batch, memories, part_memories, orders)
    return _results(values, modules)


def _results(values: list[torch.Tensor], modules: StageTwoObjective) -> list[torch.Tensor]:
    whole, of_parts = stage_two.memories(modules)
    return [torch.stack(values), *whole, *of_parts]


CASES = (
    Case(
        "epoch_features",
        "ResNet-50 in float32, from uint8 images of 288x144 to features: 22,258 visible and 11,909 infrared on a GPU, "
        f"{IMAGES_ON_CPU} each on the CPU",
        _feature_inputs,
        {"published": _published_features, "auto": _features},
        _same,
        phase=True,
    ),
    Case(
        "epoch_stage_two",
        "steps of an epoch from uint8 images to updated weights and memories, ResNet-50 in float32: on a GPU "
        f"{STEPS_ON_GPU} of 3 x 144 images, on the CPU {STEPS_ON_CPU} of 3 x {training_step.SAMPLES_ON_CPU} with a "
        "tenth of the instance memories",
        _epoch_inputs,
        {"published": _published_epoch, "auto": _engine_epoch},
        _same,
        phase=True,
    ),
)
