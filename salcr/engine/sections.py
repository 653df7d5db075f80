"""Sections of the configuration about what a run does beside training: evaluation."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveInt

from salcr.defaults import NEIGHBORS

Refinement = Literal["cmfp", "k_reciprocal", "cmrr", "aim"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Evaluation(Section):
    """Protocols are those of the data set; refinements are reported beside the raw numbers."""

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
