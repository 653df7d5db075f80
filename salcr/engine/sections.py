"""Sections of the configuration about what a run does beside training: evaluation, checkpoints, logging."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from salcr.defaults import NEIGHBORS

Refinement = Literal["cmfp", "k_reciprocal", "cmrr", "aim"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Evaluation(Section):
    """Protocols are those of the data set; refinements are reported beside the raw numbers."""

    every: NonNegativeInt = 0
    """Evaluate after every so many epochs; at the end of either stage it is done anyway, and with 0 only there."""
    batch: PositiveInt = 128
    """Images that go through the network together."""
    refinements: tuple[Refinement, ...] = ("cmfp",)
    """Test-time refinements to report."""
    cmfp_k: PositiveInt = NEIGHBORS
    """Neighbours in the graphs of CMFP."""
    cmrr_k: PositiveInt = 15
    """Neighbours of CMRR."""
    aim_k1: PositiveInt = 4
    """Affinities that AIM keeps."""
    aim_k2: PositiveInt = 1
    """Neighbours over which AIM averages affinities."""


class Keep(Section):
    """Which checkpoints stay in the run folder."""

    last: PositiveInt = 2
    """So many of the last epochs'."""
    every: NonNegativeInt = 0
    """Also that of every so many epochs; 0 for none."""
    stage_one: bool = True
    """Also that of stage one's last epoch."""
    best: Literal["rank-1", "mAP", "mINP"] | None = None
    """Also that of the epoch with the best of these by the data set's first protocol, not refined, among the epochs
    evaluated (evaluation.every). It is chosen on test data, and says so."""


class Checkpoints(Section):
    """The files in checkpoints/ of the run folder."""

    keep: Keep = Keep()


class Logging(Section):
    """Where a run can be watched, beside its log and metrics.jsonl (docs/watching.md)."""

    tensorboard: bool = False
    """Also write figures and pictures of every epoch for TensorBoard; needs the extra viz."""
