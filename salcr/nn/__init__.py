"""Thin modules and memory banks over :mod:`salcr.ops`."""

from salcr.nn.batch_norm import synchronised
from salcr.nn.memory import ClusterMemory, InstanceMemory, contrast_sum
from salcr.nn.pooling import GeM, SemanticParts, frozen_bias_batch_norm

__all__ = [
    "ClusterMemory",
    "GeM",
    "InstanceMemory",
    "SemanticParts",
    "contrast_sum",
    "frozen_bias_batch_norm",
    "synchronised",
]
