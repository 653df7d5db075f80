"""The two-stream network: maps, the global feature and the semantic-aligned part features (docs/method.md, "Model")."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from salcr import distributed
from salcr.models.resnet import TwoStreamResNet
from salcr.nn import GeM, SemanticParts, frozen_bias_batch_norm


class TrainingFeatures(NamedTuple):
    """Features of a batch [visible; augmented; infrared]: ``f [3S, D]`` and ``parts [P, 3, 3S, D]`` (or None)."""

    f: torch.Tensor
    parts: torch.Tensor | None

    def of_whole_batch(self) -> "TrainingFeatures":
        """These of the positions of all processes, without gradients."""
        parts = None if self.parts is None else distributed.gather(self.parts, 2, runs=3)
        return TrainingFeatures(distributed.gather(self.f, runs=3), parts)


class Embedding(NamedTuple):
    """Evaluation features: unit ``f [B, D]`` and unit ``joint [B, (P+1)·D]``, the concatenation [z_1 … z_P, f]."""

    f: torch.Tensor
    joint: torch.Tensor


class SALCRNetwork(nn.Module):
    """Two-stream ResNet, GeM, and part attention.

    Args:
        architecture: see :class:`salcr.models.TwoStreamResNet`.
        parts: P, horizontal stripes.
        authors_pg1: see :class:`salcr.nn.SemanticParts`.
    """

    def __init__(self, architecture: str = "resnet50", parts: int = 3, *, authors_pg1: bool = False) -> None:
        super().__init__()
        self.backbone = TwoStreamResNet(architecture)
        self.width = self.backbone.width
        self.gem = GeM()
        self.norm = frozen_bias_batch_norm(self.width)
        self.parts = SemanticParts(self.width, parts, authors_pg1=authors_pg1)

    def forward(self, visible: torch.Tensor, infrared: torch.Tensor, *, with_parts: bool) -> TrainingFeatures:
        """``visible [2S, 3, H, W]`` (plain, then augmented) and ``infrared [S, 3, H, W]``, of the same positions.

        Raises:
            ValueError: there are not twice as many visible images as infrared ones.
        """
        if len(visible) != 2 * len(infrared):
            raise ValueError(
                f"visible must hold two views of the {len(infrared)} positions of infrared, got {len(visible)} images"
            )
        maps = self.backbone(visible, infrared)
        pooled, parts = self.parts.with_gem(maps, self.gem) if with_parts else (self.gem(maps), None)
        return TrainingFeatures(self.norm(pooled), parts)

    def embed(self, images: torch.Tensor, *, infrared: bool) -> Embedding:
        """Features of ``images [B, 3, H, W]`` of one modality; call it in eval mode."""
        maps = self.backbone(None, images) if infrared else self.backbone(images, None)
        f = self.norm(self.gem(maps))
        joint = torch.cat([self.parts.own(maps).flatten(1), f], dim=1)
        return Embedding(F.normalize(f), F.normalize(joint))


def blank_network(architecture: str, parts: int, *, authors_pg1: bool = False) -> SALCRNetwork:
    """A network of zeros, whose weights are to be loaded: float32, on the CPU, whatever a program has for defaults.

    Unlike a new :class:`SALCRNetwork` it draws no random numbers.
    """
    with torch.device("meta"):
        network = SALCRNetwork(architecture, parts, authors_pg1=authors_pg1)
    network.float().to_empty(device="cpu")
    for x in network.state_dict().values():
        x.zero_()
    return network
