"""Weights for the demo's small network from a generic task, the part ImageNet plays in real runs.

The task is to tell apart procedurally drawn objects (no pedestrians, no identities of any demo); see
:func:`salcr.data.synthetic.render_objects`. The file has the names of an ImageNet checkpoint and is read the same way.
"""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from salcr.data.augment import Augmentation
from salcr.data.synthetic import render_objects
from salcr.engine import checkpoint
from salcr.engine.network import pick_device
from salcr.files import make_parent
from salcr.models import TwoStreamResNet
from salcr.models.resnet import imagenet_state
from salcr.nn import GeM

logger = logging.getLogger("salcr")


def pretrain(
    out: Path,
    *,
    architecture: str = "tiny",
    classes: int = 400,
    images_per_class: int = 20,
    epochs: int = 12,
    batch: int = 128,
    height: int = 96,
    width: int = 48,
    seed: int = 0,
    device: str = "auto",
) -> float:
    """Train ``architecture`` to classify rendered objects and write its weights to ``out`` in float16.

    Both the colour view and the channel-augmented view of every image are classified, through one stem.

    Returns:
        Top-1 accuracy on the last epoch's training batches.
    """
    make_parent(out)
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
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    augmentation = Augmentation(pad=max(1, height // 24), jitter=0.3)
    accuracy = 0.0
    for epoch in range(epochs):
        network.train()
        head.train()
        right = 0
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: len(order) // batch * batch].view(-1, batch):
            x, y = images[rows].to(place), labels[rows].to(place)
            views = torch.cat(
                [augmentation.visible(x, generator, local_scaling=True), augmentation.channel_augmented(x, generator)]
            )
            logits = head(network(views.contiguous(memory_format=torch.channels_last), None))
            loss = F.cross_entropy(logits, y.repeat(2), label_smoothing=0.1)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            right += int((logits.argmax(1) == y.repeat(2)).sum())
        accuracy = right / (2 * (len(images) // batch) * batch)
        logger.info("pretraining epoch %d: accuracy %.3f", epoch, accuracy)
    checkpoint.save_atomically({name: x.half() for name, x in imagenet_state(network).items()}, out)
    return accuracy
