"""Stage one: each modality alone against its own clusters (docs/method.md, "Stage one")."""

from typing import Any

import torch

from salcr import ops
from salcr.data.samplers import stage_one_batches
from salcr.engine.pseudo_labels import label_metrics
from salcr.engine.session import Session
from salcr.engine.steps import optimise
from salcr.nn import ClusterMemory


def stage_one_epoch(session: Session, epoch: int) -> dict[str, Any]:
    """One epoch: features, pseudo labels, memories, steps. Returns the epoch's metrics."""
    with session.timed("features"):
        features = session.extract()
    with session.timed("labels"):
        labels = session.update_labels(*(side.f for side in features))
        memories = [_memory(session, side.f, y) for side, y in zip(features, labels, strict=True)]

    def step(inputs: tuple[torch.Tensor, torch.Tensor], rows: tuple[torch.Tensor, torch.Tensor]) -> dict:
        with session.autocast():
            v, a, r = session.network(*inputs, with_parts=False).f.float().chunk(3)
        y_v, y_r = (y[index] for y, index in zip(labels, rows, strict=True))
        losses = {
            "visible": memories[0].contrast(v, y_v),
            "augmented": memories[0].contrast(a, y_v),
            "infrared": memories[1].contrast(r, y_r),
        }
        optimise(session.optimiser, sum(losses.values()))
        memories[0].update_(torch.cat([a, v]), torch.cat([y_v, y_v]))  # rows end close to their last plain sample
        memories[1].update_(r, y_r)
        return losses

    batches = stage_one_batches(*(y.cpu() for y in labels), **session.batch_plan())
    return {
        "loss": session.run_steps(epoch, batches, step, local_scaling=True),
        "visible": label_metrics(labels[0], session.dataset.train_visible.ids),
        "infrared": label_metrics(labels[1], session.dataset.train_infrared.ids),
    }


def _memory(session: Session, features: torch.Tensor, labels: torch.Tensor) -> ClusterMemory:
    settings = session.config.memory
    centroids = ops.cluster_centroids(features, labels)
    return ClusterMemory(centroids, momentum=settings.momentum, temperature=settings.temperature)
