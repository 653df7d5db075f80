"""Stage one: each modality alone against its own clusters (SPEC 3)."""

from typing import TYPE_CHECKING, Any

import torch

from salcr import ops
from salcr.data.samplers import stage_one_batches
from salcr.engine.features import autocast
from salcr.engine.pseudo_labels import label_metrics
from salcr.engine.steps import LossWatch, load_batches, optimise, training_views
from salcr.nn import ClusterMemory

if TYPE_CHECKING:
    from salcr.engine.trainer import Trainer


def stage_one_epoch(trainer: "Trainer", epoch: int) -> dict[str, Any]:
    """One epoch: features, pseudo labels, memories, steps. Returns the epoch's metrics."""
    schedule, device = trainer.config.schedule, trainer.device
    with trainer.timed("features"):
        features = trainer.extract()
    with trainer.timed("labels"):
        labels = trainer.update_labels(*(side.f for side in features))
        memories = [_memory(trainer, side.f, y) for side, y in zip(features, labels, strict=True)]

    watch = LossWatch(epoch, trainer.paths)
    on_cpu = [y.cpu() for y in labels]
    batches = list(
        stage_one_batches(
            *on_cpu,
            iterations=schedule.iterations,
            identities=schedule.identities,
            images=schedule.images,
            generator=trainer.generator,
        )
    )
    with trainer.timed("steps"):
        trainer.network.train()
        for visible, infrared, rows in trainer.progress(
            load_batches(batches, *trainer.images, device), len(batches), f"stage one, epoch {epoch}"
        ):
            inputs = training_views(visible, infrared, trainer.augmentation, trainer.generator, local_scaling=True)
            with autocast(device, schedule.precision):
                f = trainer.network(*inputs, with_parts=False).f.float()
            y_v, y_r = (y[r.to(device, non_blocking=True)] for y, r in zip(labels, rows, strict=True))
            v, a, r = f.chunk(3)
            losses = {
                "visible": memories[0].contrast(v, y_v),
                "augmented": memories[0].contrast(a, y_v),
                "infrared": memories[1].contrast(r, y_r),
            }
            optimise(trainer.optimiser, sum(losses.values()))
            memories[0].update_(torch.cat([v, a]), torch.cat([y_v, y_v]))
            memories[1].update_(r, y_r)
            watch.add(losses, rows)
    return {
        "loss": watch.means(),
        "visible": label_metrics(labels[0], trainer.dataset.train_visible.ids),
        "infrared": label_metrics(labels[1], trainer.dataset.train_infrared.ids),
    }


def _memory(trainer: "Trainer", features: torch.Tensor, labels: torch.Tensor) -> ClusterMemory:
    settings = trainer.config.memory
    centroids = ops.cluster_centroids(features, labels)
    return ClusterMemory(centroids, momentum=settings.momentum, temperature=settings.temperature)
