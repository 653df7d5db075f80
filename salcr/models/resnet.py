"""Residual networks with one stem a modality and shared stages (docs/method.md, "Two-stream network")."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from salcr.models.weights import misfits, tensors_by_name
from salcr.nn import norm_relu
from salcr.nn.batch_norm import has_hooks

Twice = tuple[torch.Tensor, torch.Tensor]
"""A map for a block's convolutions, and the same for its shortcut."""


@dataclass(frozen=True)
class Architecture:
    """Blocks a stage, channels of the first stage, and whether blocks are bottlenecks (output width × 4)."""

    blocks: tuple[int, int, int, int]
    channels: int
    bottleneck: bool

    @property
    def width(self) -> int:
        """D, channels of the last map."""
        return self.channels * 8 * (4 if self.bottleneck else 1)


ARCHITECTURES = {
    "resnet50": Architecture((3, 4, 6, 3), 64, bottleneck=True),
    "resnet18": Architecture((2, 2, 2, 2), 64, bottleneck=False),
    "tiny": Architecture((1, 1, 1, 1), 32, bottleneck=False),
}


class TwoStreamResNet(nn.Module):
    """A visible and an infrared stem (7×7/2 convolution, norm, ReLU, 3×3/2 max-pool) before shared stages 1-4.

    The last stage has stride 1, so ``[B, 3, H, W]`` gives a map ``[B, D, H/16, W/16]`` (rounded up).

    Args:
        architecture: ``"resnet50"``, ``"resnet18"`` or ``"tiny"``.
    """

    def __init__(self, architecture: str) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
        shape = ARCHITECTURES[architecture]
        self.width = shape.width
        self.visible_stem, self.infrared_stem = Stem(shape.channels), Stem(shape.channels)
        stages, channels = [], shape.channels
        for stage, blocks in enumerate(shape.blocks):
            stride = 2 if stage in (1, 2) else 1
            stages.append(_stage(channels, shape.channels << stage, blocks, stride, shape.bottleneck))
            channels = stages[-1][-1].out_channels
        stages[-1][-1].twice = False
        self.stages = nn.ModuleList(stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, visible: torch.Tensor | None, infrared: torch.Tensor | None) -> torch.Tensor:
        """Maps of the visible rows, then of the infrared rows; either may be None."""
        x = [stem(y) for stem, y in ((self.visible_stem, visible), (self.infrared_stem, infrared)) if y is not None]
        return through_stages(self.stages, torch.cat(x) if len(x) > 1 else x[0])

    def folded(self) -> "TwoStreamResNet":
        """A copy in eval mode, for features alone: every batch norm is part of the convolution before it."""
        if not any(isinstance(module, _BatchNorm) for module in self.modules()):
            return self
        network = copy.deepcopy(self).eval()
        for module in network.modules():
            for (_, convolution), (norm_name, norm) in pairwise(list(module.named_children())):
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, _BatchNorm):
                    statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                    fused = fuse_conv_bn_weights(convolution.weight, convolution.bias, *statistics)
                    convolution.weight, convolution.bias = fused
                    module.add_module(norm_name, nn.Identity())
        return network

    def load_imagenet(self, state: Mapping[str, torch.Tensor]) -> None:
        """Start from a classifier's weights: one stem's into both stems, the stages', the classifier's ignored.

        Args:
            state: a state dict with torchvision's or timm's names (``conv1``, ``bn1``, ``layer1`` … ``layer4``),
                possibly below ``state_dict`` or ``model`` and with a ``module.`` prefix.

        Raises:
            ValueError: a weight is missing, has another shape or is not finite; the first five are named.
        """
        tensors = tensors_by_name(state)
        if wrong := misfits(imagenet_state(self), tensors):
            raise ValueError(f"the weights do not fit this network: {wrong}")
        names = [ours for ours in self.state_dict() if not ours.endswith("num_batches_tracked")]
        self.load_state_dict({ours: tensors[_imagenet_name(ours)] for ours in names}, strict=False)


def through_stages(stages: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
    """The last map, from the stems' map. Blocks hand on a map twice, see :func:`salcr.ops.batch_norm_relu`."""
    maps = x, x
    for stage in stages:
        maps = stage(maps)
    return maps


def imagenet_state(network: TwoStreamResNet) -> dict[str, torch.Tensor]:
    """The weights of the visible stem and the stages under torchvision's names, as :meth:`load_imagenet` reads them."""
    return {
        _imagenet_name(ours): tensor
        for ours, tensor in network.state_dict().items()
        if not ours.startswith("infrared_stem") and not ours.endswith("num_batches_tracked")
    }


class Stem(nn.Sequential):
    """A 7×7/2 convolution, a norm, ReLU and 3×3/2 max-pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(3, channels, 7, 2, 3, bias=False),
            nn.BatchNorm2d(channels),
            nn.MaxPool2d(3, 2, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convolution, norm, pool = self
        return pool(norm_relu(norm, convolution(x)))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    twice = True

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, maps: Twice) -> Twice | torch.Tensor:
        x, same = maps
        y = norm_relu(self.bn1, self.conv1(x))
        return _end(self, self.bn2, self.conv2(y), same)


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride) and 1×1 convolutions and a shortcut."""

    twice = True

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels = 4 * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, self.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.out_channels)
        self.downsample = _shortcut(in_channels, self.out_channels, stride)

    def forward(self, maps: Twice) -> Twice | torch.Tensor:
        x, same = maps
        y = norm_relu(self.bn1, self.conv1(x))
        y = norm_relu(self.bn2, self.conv2(y))
        return _end(self, self.bn3, self.conv3(y), same)


def _end(block: BasicBlock | Bottleneck, norm: nn.Module, x: torch.Tensor, same: torch.Tensor) -> Twice | torch.Tensor:
    """The block's last norm, the sum with the shortcut and ReLU. A norm of the shortcut is joined with them."""
    shortcut, shortcut_norm = block.downsample, None
    if isinstance(shortcut, nn.Sequential) and not has_hooks(shortcut):
        shortcut, shortcut_norm = shortcut
    return norm_relu(norm, x, shortcut(same), shortcut_norm=shortcut_norm, twice=block.twice)


def _stage(in_channels: int, channels: int, blocks: int, stride: int, bottleneck: bool) -> nn.Sequential:
    kind, layers = Bottleneck if bottleneck else BasicBlock, []
    for block in range(blocks):
        layers.append(kind(in_channels, channels, stride if block == 0 else 1))
        in_channels = layers[-1].out_channels
    return nn.Sequential(*layers)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def _imagenet_name(ours: str) -> str:
    """``infrared_stem.0.weight -> conv1.weight``, ``stages.2.1.bn1.bias -> layer3.1.bn1.bias``."""
    first, index, *rest = ours.split(".")
    if first == "stages":
        return ".".join([f"layer{int(index) + 1}", *rest])
    return ".".join([{"0": "conv1", "1": "bn1"}[index], *rest])
