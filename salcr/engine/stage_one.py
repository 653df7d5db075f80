"""Stage one: each modality alone against its own clusters (docs/method.md, "Stage one")."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from salcr import ops
from salcr.data.samplers import stage_one_batches
from salcr.engine.session import EpochState, Session
from salcr.engine.steps import Rows, optimise, share_of
from salcr.models import TrainingFeatures
from salcr.models.features import widened
from salcr.nn import ClusterMemory


def stage_one_epoch(session: Session, epoch: int) -> dict[str, Any]:
    """One epoch: features, pseudo labels, memories, steps. Returns the epoch's metrics."""
    state = _begin(session) if session.middle is None else _resume(session, session.middle)
    labels, memories = state.labels, state.memories

    def step(network: nn.Module, inputs: Rows, rows: Rows) -> dict:
        with session.autocast():
            output = TrainingFeatures(widened(network(*inputs, with_parts=False).f), None)
        v, a, r = output.f.chunk(3)
        y_v, y_r = (y[index] for y, index in zip(labels, share_of(rows), strict=True))
        losses = {
            "visible": memories[0].contrast(v, y_v),
            "augmented": memories[0].contrast(a, y_v),
            "infrared": memories[1].contrast(r, y_r),
        }
        optimise(session.optimiser, sum(losses.values()))
        v, a, r = output.of_whole_batch().f.chunk(3)
        y_v, y_r = (y[index] for y, index in zip(labels, rows, strict=True))
        memories[0].update_(torch.cat([a, v]), torch.cat([y_v, y_v]))  # rows end close to their last plain sample
        memories[1].update_(r, y_r)
        return losses

    losses = session.run_steps(epoch, state, step, local_scaling=True, unused=[session.network.parts])
    return {"loss": losses, **session.label_metrics()}


def _begin(session: Session) -> EpochState:
    with session.timed("features"):
        features = session.extract()
    with session.timed("labels"):
        labels = session.update_labels(*(side.f for side in features))
        rows = [ops.cluster_centroids(side.f, y) for side, y in zip(features, labels, strict=True)]
    batches = stage_one_batches(*(y.cpu() for y in labels), **session.batch_plan())
    return EpochState(labels, _memories(session, rows), list(batches))


def _resume(session: Session, middle: dict[str, Any]) -> EpochState:
    memories = _memories(session, [rows.to(session.device) for rows in middle["memories"].values()])
    memories.load_state_dict(middle["memories"])  # as they were: a unit row that is normalised again can change
    return EpochState(session.labels, memories, middle["batches"])


def _memories(session: Session, rows: Sequence[torch.Tensor]) -> nn.ModuleList:
    """Of visible and infrared clusters."""
    settings = session.config.memory.model_dump()
    return nn.ModuleList(ClusterMemory(x, **settings) for x in rows)
