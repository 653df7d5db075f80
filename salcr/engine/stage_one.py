"""Stage one: each modality alone against its own clusters (docs/method.md, "Stage one")."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from salcr import ops
from salcr.data.samplers import stage_one_batches
from salcr.engine.network import product_precision
from salcr.engine.session import EpochState, Session
from salcr.engine.steps import Batch, Rows, optimise, share_of
from salcr.models import TrainingFeatures
from salcr.models.features import widened
from salcr.nn import ClusterMemory, MemoryContrasts, MemoryUpdate, contrast_sums, update_memories_
from salcr.ops._checks import known_values


def stage_one_epoch(session: Session, epoch: int) -> dict[str, Any]:
    """One epoch: features, pseudo labels, memories, steps. Returns the epoch's metrics."""
    state = _begin(session) if session.middle is None else _resume(session, session.middle)
    step = functools.partial(stage_one_step, session, session.to_device(state.labels), state.memories)
    losses = session.run_steps(epoch, state, step, local_scaling=True, unused=[session.network.parts])
    with session.timed("metrics"):
        return {"loss": losses, **session.label_metrics()}


def stage_one_step(
    session: Session,
    labels: Rows,
    memories: Sequence[ClusterMemory],
    network: nn.Module,
    inputs: Rows,
    batch: Batch,
) -> dict[str, torch.Tensor]:
    """Train ``network`` on a batch, and update the memories; returns the losses."""
    with session.autocast():
        output = TrainingFeatures(widened(network(*inputs, with_parts=False).f), None)
    losses = stage_one_losses(memories, output.f, of_batch(labels, share_of(batch.rows)))
    optimise(session.optimiser, sum(losses.values()))
    update_stage_one_(memories, output.of_whole_batch().f, of_batch(labels, batch.rows))
    return losses


def of_batch(labels: Rows, rows: Rows) -> Rows:
    """Labels of the visible and of the infrared rows of a batch."""
    return labels[0][rows[0]], labels[1][rows[1]]


def stage_one_losses(memories: Sequence[ClusterMemory], f: torch.Tensor, labels: Rows) -> dict[str, torch.Tensor]:
    """Contrasts of ``f [3S, D]`` = [visible, augmented, infrared] with the visible and the infrared memory."""
    (visible, infrared), (y_v, y_r) = memories, labels
    terms = zip(f.chunk(3), (visible, visible, infrared), (y_v, y_v, y_r), strict=True)
    found = contrast_sums([MemoryContrasts(rows, [memory], [y]) for rows, memory, y in terms])
    return dict(zip(("visible", "augmented", "infrared"), found, strict=True))


def update_stage_one_(memories: Sequence[ClusterMemory], f: torch.Tensor, labels: Rows) -> None:
    """Both memories with their rows of ``f``: of the visible one the augmented rows first.

    A row then ends close to its last plain sample.
    """
    (visible, infrared), (y_v, y_r), (v, a, r) = memories, labels, f.chunk(3)
    update_memories_([MemoryUpdate(visible, torch.cat([a, v]), y_v.repeat(2)), MemoryUpdate(infrared, r, y_r)])


def _begin(session: Session) -> EpochState:
    with session.timed("features"):
        features = session.extract()
    with session.timed("labels"):
        labels = session.update_labels(*(side.f for side in features))
        counts = [int(y.max()) + 1 for y in labels]
        sides = zip(features, session.to_device(labels), counts, strict=True)
        with known_values():
            rows = [ops.cluster_centroids(side.f, y, count) for side, y, count in sides]
    with session.timed("batches"):
        batches = list(stage_one_batches(*labels, **session.batch_plan()))
    return EpochState(labels, _memories(session, rows), batches)


def _resume(session: Session, middle: dict[str, Any]) -> EpochState:
    memories = _memories(session, [rows.to(session.device) for rows in middle["memories"].values()])
    memories.load_state_dict(middle["memories"])  # as they were: a unit row that is normalised again can change
    return EpochState(session.labels, memories, middle["batches"])


def _memories(session: Session, rows: Sequence[torch.Tensor]) -> nn.ModuleList:
    """Of visible and infrared clusters."""
    settings = session.config.memory.model_dump() | {"precision": product_precision(session.config, session.device)}
    return nn.ModuleList(ClusterMemory(x, **settings) for x in rows)
