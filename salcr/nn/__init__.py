"""Thin modules and memory banks over :mod:`salcr.ops`."""

from salcr.nn.batch_norm import norm_relu, synchronised
from salcr.nn.hybrid_memory import HybridMemory
from salcr.nn.memory import (
    ClusterMemory,
    InstanceMemory,
    MemoryContrasts,
    MemoryUpdate,
    contrast_sum,
    contrast_sums,
    update_memories_,
)
from salcr.nn.pooling import GeM, SemanticParts, frozen_bias_batch_norm

__all__ = [
    "ClusterMemory",
    "GeM",
    "HybridMemory",
    "InstanceMemory",
    "MemoryContrasts",
    "MemoryUpdate",
    "SemanticParts",
    "contrast_sum",
    "contrast_sums",
    "frozen_bias_batch_norm",
    "norm_relu",
    "synchronised",
    "update_memories_",
]
