"""Weights for the demo's small network from a generic task, the part ImageNet plays in real runs.

The task is to tell apart procedurally drawn objects in visible light; see
:func:`salcr.data.synthetic.render_objects`. The file has the names of an ImageNet checkpoint and is read the same way.
"""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from salcr.data.augment import GREY, crop_and_flip, normalize, turn_hue
from salcr.data.synthetic import render_objects
from salcr.engine import checkpoint
from salcr.engine.network import pick_device
from salcr.models import TwoStreamResNet
from salcr.models.resnet import imagenet_state
from salcr.nn import GeM

logger = logging.getLogger("salcr")

JITTER, HUE, GREYSCALE = 0.4, 0.1, 0.2
"""Brightness, contrast and saturation in 1 ± JITTER, hue in ± HUE turns, grey with that probability: as in MoCo v2."""


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
    place = pick_device(device)
    images, labels = render_objects(classes, images_per_class, height=height, width=width, seed=seed)
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
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
            x = normalize(jitter(crop_and_flip(x, max(1, height // 24), generator), generator))
            logits = head(network(x.contiguous(memory_format=torch.channels_last), None))
            loss = F.cross_entropy(logits, y, label_smoothing=0.1)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            right += int((logits.argmax(1) == y).sum())
        accuracy = right / (len(images) // batch * batch)
        logger.info("pretraining epoch %d: accuracy %.3f", epoch, accuracy)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_atomically({name: x.half() for name, x in imagenet_state(network).items()}, out)
    return accuracy


def jitter(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Colour augmentation of generic pretraining, of ``[B, 3, H, W]`` in [0, 1]: jitter, and some images in grey."""
    draw = torch.rand(5, len(x), 1, 1, 1, generator=generator).to(x.device)
    brightness, contrast, saturation = 1 + JITTER * (2 * draw[:3] - 1)
    x = (x * brightness).clamp_(0, 1)
    x = torch.lerp(_grey(x).mean((2, 3), keepdim=True), x, contrast).clamp_(0, 1)
    x = torch.lerp(_grey(x), x, saturation).clamp_(0, 1)
    x = turn_hue(x, HUE * (2 * draw[3, :, 0] - 1))
    return torch.where(draw[4] < GREYSCALE, _grey(x), x)


def _grey(x: torch.Tensor) -> torch.Tensor:
    return (x * x.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)
