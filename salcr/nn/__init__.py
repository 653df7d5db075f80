"""Thin modules and memory banks over :mod:`salcr.ops`."""

from salcr.nn.batch_norm import synchronised
from salcr.nn.hybrid_memory import HybridMemory
from salcr.nn.memory import ClusterMemory, InstanceMemory, MemoryUpdate, contrast_sum, update_memories_
from salcr.nn.pooling import GeM, SemanticParts, frozen_bias_batch_norm

__all__ = [
    "ClusterMemory",
    "GeM",
    "HybridMemory",
    "InstanceMemory",
    "MemoryUpdate",
    "SemanticParts",
    "contrast_sum",
    "frozen_bias_batch_norm",
    "synchronised",
    "update_memories_",
]
