"""Stage two: both modalities together, with DAGI, FGSAL and GPCR (docs/method.md, "Stage two")."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from salcr import distributed, ops
from salcr.data.records import NO_IDENTITY
from salcr.data.samplers import stage_two_batches
from salcr.engine.config import DAGI, Config
from salcr.engine.network import product_precision
from salcr.engine.pseudo_labels import commonest_identities, on_host
from salcr.engine.session import EpochState, Session
from salcr.engine.steps import Batch, Rows, optimise, share_of
from salcr.models import Embedding, SALCRNetwork, TrainingFeatures
from salcr.models.features import to_device, widened
from salcr.nn import ClusterMemory, contrast_sums, update_memories_
from salcr.objectives import CrossLabels, GlobalObjective, PartObjective, PartQueries, RefinementObjective, associate
from salcr.objectives.fgsal import ROWS as PART_ROWS
from salcr.objectives.gpcr import refinement_losses
from salcr.ops._checks import known_values

SIDES = ("visible", "infrared")


def stage_two_epoch(session: Session, epoch: int) -> dict[str, Any]:
    """One epoch: features, pseudo labels, association, memories, steps. Returns the epoch's metrics."""
    state = _begin(session) if session.middle is None else _resume(session, session.middle)
    labels = CrossLabels(*state.labels)
    objective: StageTwoObjective = state.memories
    step = functools.partial(stage_two_step, session, CrossLabels(*session.to_device(labels)), objective)
    orders = objective.orders(session.positions)
    unused = objective.unused(session.network)
    losses = session.run_steps(epoch, state, step, local_scaling=False, orders=orders, unused=unused)
    with session.timed("metrics"):
        metrics = {"loss": losses, **session.label_metrics()}
        accuracy = cross_accuracy(labels, session.dataset.train_visible.ids, session.dataset.train_infrared.ids)
        return metrics | {"cross_accuracy": accuracy} if accuracy else metrics


def stage_two_step(
    session: Session,
    labels: CrossLabels,
    objective: "StageTwoObjective",
    network: nn.Module,
    inputs: Rows,
    batch: Batch,
) -> dict[str, torch.Tensor]:
    """Train ``network`` on a batch, and update the memories; returns the losses."""
    with session.autocast():
        output = network(*inputs, with_parts=objective.uses_parts)
    output = TrainingFeatures(*(None if x is None else widened(x) for x in output))
    queries = objective.queries(output, labels.of_batch(*share_of(batch.rows)))
    losses = objective.losses(output, queries)
    optimise(session.optimiser, total(losses))
    if distributed.world() > 1:
        output = output.of_whole_batch()
        queries = objective.queries(output, labels.of_batch(*batch.rows))
    objective.update_(output, queries, batch.orders)
    return losses


class StageTwoObjective(nn.Module):
    """The modules of an epoch that are switched on; ``weight`` is λ₂."""

    gpcr: Sequence[RefinementObjective] | None

    def __init__(
        self,
        dagi: GlobalObjective | None,
        fgsal: PartObjective | None,
        gpcr: tuple[RefinementObjective, RefinementObjective] | None,
        weight: float,
    ) -> None:
        super().__init__()
        self.dagi, self.fgsal, self.weight = dagi, fgsal, weight
        self.gpcr = None if gpcr is None else nn.ModuleList(gpcr)

    @classmethod
    def build(
        cls, config: Config, features: tuple[Embedding, Embedding], clusters: tuple[torch.Tensor, torch.Tensor]
    ) -> "StageTwoObjective":
        """Memories of clustered images, from the features ``[N, D]`` of both sides and their clusters.

        Clusters are ``[N]`` on the CPU: -1 for noise, else from 0 to the largest, each of which has an image.
        """
        rows = {}
        for i, (name, side, y) in enumerate(zip(SIDES, features, clusters, strict=True)):
            kept, y, count = _clustered(y, side.f.device)
            whole, parts = side.f[kept], _part_features(side, kept, config.model.parts)
            with known_values():
                centroids = functools.partial(ops.cluster_centroids, labels=y, num_clusters=count)
                if config.dagi.enabled:
                    rows[f"dagi.{name}.rows"] = centroids(whole)
                if config.fgsal.enabled:
                    rows[f"fgsal.{name}_to_{name}.rows"] = torch.stack([centroids(part) for part in parts])
            if config.gpcr.enabled:
                rows |= {f"gpcr.{i}.whole.rows": whole, f"gpcr.{i}.parts.rows": parts}
        return cls.with_rows(config, rows)

    @classmethod
    def with_rows(cls, config: Config, rows: Mapping[str, torch.Tensor]) -> "StageTwoObjective":
        """Memories that start from ``rows``, which are named as in the objective's ``state_dict``."""
        dagi, fgsal, gpcr = None, None, None
        precision = product_precision(config, next(iter(rows.values())).device)
        memory = config.memory.model_dump() | {"precision": precision}
        if config.dagi.enabled:
            dagi = GlobalObjective(*(ClusterMemory(rows[f"dagi.{name}.rows"], **memory) for name in SIDES))
        if config.fgsal.enabled:
            fgsal = PartObjective(*(rows[f"fgsal.{name}_to_{name}.rows"] for name in SIDES), **memory)
        if config.gpcr.enabled:
            options = dict(k=config.gpcr.k, temperature=config.memory.temperature, precision=precision)
            images = ((rows[f"gpcr.{i}.whole.rows"], rows[f"gpcr.{i}.parts.rows"]) for i in range(2))
            gpcr = tuple(RefinementObjective(*of_side, **options) for of_side in images)
        return cls(dagi, fgsal, gpcr, config.gpcr.weight)

    @property
    def uses_parts(self) -> bool:
        return self.fgsal is not None or self.gpcr is not None

    def unused(self, network: SALCRNetwork) -> list[nn.Module]:
        """Modules of ``network`` that get no gradient from :meth:`losses`."""
        used = {network.parts: self.uses_parts, network.norm: self.dagi is not None or self.gpcr is not None}
        return [module for module, is_used in used.items() if not is_used]

    def queries(self, features: TrainingFeatures, labels: CrossLabels) -> "StepQueries":
        """What the step's losses and updates both need of a batch."""
        return StepQueries(labels, None if self.fgsal is None else self.fgsal.queries(features.parts, labels))

    def losses(self, features: TrainingFeatures, queries: "StepQueries") -> dict[str, torch.Tensor]:
        """The weighted terms of ``L = L_g + L_p + λ₂ (L_gi + L_pi)``."""
        losses, contrasts = {}, []
        if self.dagi is not None:
            contrasts.append(self.dagi.contrasts(features.f, queries.labels))
        if self.fgsal is not None:
            contrasts += self.fgsal.contrasts(queries.parts)
        found = iter(contrast_sums(contrasts) if contrasts else ())
        if self.dagi is not None:
            losses["global"] = next(found)
        if self.fgsal is not None:
            losses["parts"] = next(found) + next(found)
        if self.gpcr is not None:
            whole, parts = refinement_losses(self.gpcr, features.f, features.parts)
            losses["global_instance"], losses["part_instance"] = self.weight * whole, self.weight * parts
        return losses

    def orders(self, positions: int) -> list[int]:
        """Lengths of the orders that the updates of a batch of so many positions want."""
        rows = (*(() if self.dagi is None else (3,)), *(() if self.fgsal is None else PART_ROWS))
        return [number * positions for number in rows]

    def update_(self, features: TrainingFeatures, queries: "StepQueries", orders: torch.Tensor) -> None:
        """Update the cluster memories with the samples of a step; ``orders`` are of :meth:`orders`, end to end."""
        f, parts, updates = features.f, queries.parts, []
        each = list(orders.split(self.orders(len(f) // 3)))
        if self.dagi is not None:
            updates += self.dagi.updates(f, queries.labels, each.pop(0))
        if self.fgsal is not None:
            updates += self.fgsal.updates(parts, each)
        if updates:
            update_memories_(updates)


class StepQueries(NamedTuple):
    """A batch's labels, and what it asks the part memories."""

    labels: CrossLabels
    parts: PartQueries | None


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """The sum of a step's losses, without a launch for the 0 that Python's begins with."""
    return functools.reduce(torch.add, losses.values())


def cross_labels(
    features: tuple[Embedding, Embedding], clusters: tuple[torch.Tensor, torch.Tensor], settings: DAGI
) -> CrossLabels:
    """Labels of every image of both modalities on the CPU, -1 for noise; see :func:`salcr.objectives.associate`.

    ``clusters`` are as :meth:`StageTwoObjective.build` has them.
    """
    given, counts = [], []
    for side, y in zip(features, clusters, strict=True):
        kept, labels, count = _clustered(y, side.f.device)
        given += [side.f[kept], labels]
        counts.append(count)
    options = dict(k=settings.k, association=settings.association, sinkhorn=settings.sinkhorn.model_dump())
    with known_values():
        found = on_host(associate(*given, num_clusters=tuple(counts), **options))
    sides = (y for y in clusters for _ in range(2))
    return CrossLabels(
        *(torch.full_like(y, -1).index_copy_(0, _rows(y), labels) for y, labels in zip(sides, found, strict=True))
    )


def cross_accuracy(labels: CrossLabels, visible_ids: np.ndarray, infrared_ids: np.ndarray) -> dict[str, float]:
    """Share of clustered images whose cross label is a cluster in which their own hidden identity is the commonest.

    Images of unknown identity do not count; a direction is left out where a side has no known identity.
    """
    own_v, to_r, own_r, to_v = (y.numpy() for y in labels)
    commonest_v, commonest_r = commonest_identities(own_v, visible_ids), commonest_identities(own_r, infrared_ids)

    found = {}
    for direction, cross, commonest, identities in (
        ("visible_to_infrared", to_r, commonest_r, visible_ids),
        ("infrared_to_visible", to_v, commonest_v, infrared_ids),
    ):
        kept = (cross >= 0) & (identities != NO_IDENTITY)
        if kept.any() and (commonest != NO_IDENTITY).any():
            partner = np.append(commonest, NO_IDENTITY)[np.minimum(cross[kept], len(commonest))]
            found[direction] = round(float((partner == identities[kept]).mean()), 4)
    return found


def _begin(session: Session) -> EpochState:
    with session.timed("features"):
        features = session.extract()
    with session.timed("labels"):
        clusters = session.update_labels(*(side.f for side in features))
    with session.timed("association"):
        objective = StageTwoObjective.build(session.config, features, clusters)
        labels = distributed.on_first(lambda: cross_labels(features, clusters, session.config.dagi))
    with session.timed("batches"):
        as_visible = labels.visible, labels.infrared_to_visible
        as_infrared = labels.visible_to_infrared, labels.infrared
        batches = list(stage_two_batches(*as_visible, *as_infrared, **session.batch_plan()))
        return EpochState(labels, objective, batches)


def _resume(session: Session, middle: dict[str, Any]) -> EpochState:
    objective = StageTwoObjective.with_rows(
        session.config, {name: rows.to(session.device) for name, rows in middle["memories"].items()}
    )
    objective.load_state_dict(middle["memories"])  # as they were: a unit row that is normalised again can change
    return EpochState(middle["labels"], objective, middle["batches"])


def _clustered(clusters: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """On ``device``: rows of the images that are in a cluster, and their clusters; and how many clusters there are."""
    rows = _rows(clusters)
    return to_device(rows, device), to_device(clusters[rows], device), int(clusters.max()) + 1


def _rows(clusters: torch.Tensor) -> torch.Tensor:
    return (clusters >= 0).nonzero()[:, 0]


def _part_features(side: Embedding, rows: torch.Tensor, parts: int) -> torch.Tensor:
    """``[P, len(rows), D]``: the parts' slices of those joint vectors ``[N, (P+1)·D]``."""
    return side.joint.unflatten(1, (parts + 1, -1))[:, :parts].movedim(1, 0)[:, rows].contiguous()
