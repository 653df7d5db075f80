"""Thin modules and memory banks over :mod:`salcr.ops`."""

from salcr.nn.memory import ClusterMemory, InstanceMemory
from salcr.nn.pooling import GeM, SemanticParts, frozen_bias_batch_norm

__all__ = ["ClusterMemory", "GeM", "InstanceMemory", "SemanticParts", "frozen_bias_batch_norm"]
