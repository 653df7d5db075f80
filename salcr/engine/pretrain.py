"""Weights for the demo's small network from a generic task, the part ImageNet plays in real runs.

The task is to tell apart procedurally drawn objects in visible light; see
:func:`salcr.data.synthetic.render_objects`. The file has the names of an ImageNet checkpoint and is read the same way.
"""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from salcr.data.augment import Draws, draw_crops, make_views
from salcr.data.synthetic import render_objects
from salcr.engine import checkpoint
from salcr.files import make_parent
from salcr.models import TwoStreamResNet
from salcr.models.features import pick_device
from salcr.models.resnet import imagenet_state
from salcr.nn import GeM
from salcr.ops.augmentation import Adjust, Draw
from salcr.surroundings import own_settings

logger = logging.getLogger("salcr")

JITTER, HUE, GREYSCALE = 0.4, 0.1, 0.2
"""Brightness, contrast and saturation in 1 ± JITTER, hue in ± HUE turns, grey with that probability: as in MoCo v2."""


@own_settings()
def pretrain(
    out: Path,
    *,
    architecture: str = "tiny",
    classes: int = 500,
    images_per_class: int = 20,
    epochs: int = 18,
    batch: int = 128,
    height: int = 72,
    width: int = 36,
    seed: int = 0,
    device: str = "auto",
) -> float:
    """Train ``architecture`` to classify rendered objects and write its weights to ``out`` in float16.

    One stem sees all images: in colour, cropped, mirrored, with ordinary colour jitter, and one in five in grey.

    Returns:
        Top-1 accuracy on the last epoch's training batches.
    """
    make_parent(out)
    place = pick_device(device)
    images, labels = render_objects(classes, images_per_class, height=height, width=width, seed=seed)
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed: those of GPUs, too
    network = TwoStreamResNet(architecture).to(place, memory_format=torch.channels_last)
    head = nn.Sequential(GeM(), nn.BatchNorm1d(network.width), nn.Linear(network.width, classes)).to(place)
    parameters = [*network.visible_stem.parameters(), *network.stages.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.02)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.15)
    accuracy = 0.0
    for epoch in range(epochs):
        network.train()
        head.train()
        right = 0
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: len(order) // batch * batch].view(-1, batch):
            x, y = images[rows].to(place), labels[rows].to(place)
            views = make_views(x, draw_views(batch, max(1, height // 24), generator))
            logits = head(network(views, None))
            loss = F.cross_entropy(logits, y, label_smoothing=0.1)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            right += int((logits.argmax(1) == y).sum())
        accuracy = right / (len(images) // batch * batch)
        logger.info("pretraining epoch %d: accuracy %.3f", epoch, accuracy)
    checkpoint.save_atomically({name: x.half() for name, x in imagenet_state(network).items()}, out)
    return accuracy


def draw_views(batch: int, pad: int, generator: torch.Generator) -> Draws:
    """Crops, mirroring and the colour augmentation of generic pretraining: jitter, and some images in grey."""
    table, draw = draw_crops(batch, pad, generator), torch.rand(5, batch, generator=generator)
    table[:, Draw.BRIGHTNESS : Draw.SATURATION + 1] = (1 + JITTER * (2 * draw[:3] - 1)).T
    table[:, Draw.TURN] = HUE * (2 * draw[3] - 1)
    order = (Adjust.BRIGHTNESS, Adjust.CONTRAST, Adjust.HUE, Adjust.SATURATION)
    table[:, Draw.FIRST : Draw.FOURTH + 1] = torch.tensor(order, dtype=torch.float32)
    table[draw[4] < GREYSCALE, Draw.SATURATION] = 0  # the last of the adjustments
    return Draws(table)
