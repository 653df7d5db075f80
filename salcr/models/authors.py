"""Checkpoints of the authors' published code, and of others of its family that give the weights the same names."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from salcr.models.network import SALCRNetwork, blank_network
from salcr.models.resnet import ARCHITECTURES
from salcr.models.weights import describe, is_dense, misfits, name_some, tensors_by_name

logger = logging.getLogger("salcr")

STEMS = {"visible_stem": "visible_module.visible", "infrared_stem": "thermal_module.thermal"}
LAYERS = {"0": "conv1", "1": "bn1"}
STAGES = "base_resnet.base"
TOKENS, PART_NORM = "attn_pool.part_tokens", "bottleneck_part"
PART_WEIGHTS = (TOKENS, *(f"{PART_NORM}.{name}" for name in ("weight", "bias", "running_mean", "running_var")))
MOST_PARTS = 256
UNUSED = {
    "layer1..4 of both stems": r"(visible_module\.visible|thermal_module\.thermal)\.layer[1-4]\..+",
    f"conv1 and bn1 of {STAGES}": r"base_resnet\.base\.(conv1|bn1)\..+",
    "attn_pool.pos_embeding": r"attn_pool\.pos_embeding",
    "disnet": r"disnet\..+",
    "gem.p": r"gem\.p",
    "classifier": r"classifier\..+",
}
"""What such files hold and the published network's forward never uses."""


class AuthorsWeights(NamedTuple):
    """What a file holds under the published names; all weights that retrieval needs are there, and fit.

    Attributes:
        path: the file.
        architecture: of ``salcr.models.ARCHITECTURES``, as the blocks say.
        parts: P, as the shapes say; None where the file has no part modules.
        weights: tensors by the names of the network's ``state_dict``.
        missing: published names of part modules' weights that are not there.
        unused: names in the file of what :data:`UNUSED` lists.
        unknown: names in the file that are neither used nor among those.
        power: ``gem.p``, where the file has it; this network's is 3.
    """

    path: Path
    architecture: str
    parts: int | None
    weights: dict[str, torch.Tensor]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    unknown: tuple[str, ...]
    power: float

    def network(self) -> SALCRNetwork:
        """The network of these weights; what is missing of part modules is drawn at random, the same at every call."""
        network = blank_network(self.architecture, self.parts or 3)
        network.parts.reset_parameters(torch.Generator().manual_seed(0))
        network.load_state_dict(self.weights, strict=False)
        return network

    def load_into(self, network: SALCRNetwork, architecture: str, parts: int) -> None:
        """Give them to ``network``, an ``architecture`` with so many ``parts``; what is missing stays as it is.

        Raises:
            ValueError: they are of another one.
        """
        if architecture != self.architecture or self.parts not in (None, parts):
            asked = f"model.architecture={architecture} and model.parts={parts}"
            raise ValueError(f"{self.path} does not fit this network, {asked}: it holds {self._kind()}")
        network.load_state_dict(self.weights, strict=False)

    def report(self) -> None:
        """Say in the log what was used and what was not; every name is in its details (``DEBUG``)."""
        entries = len(self.weights) + len(self.unused) + len(self.unknown)
        groups = {group: sum(bool(re.fullmatch(UNUSED[group], name)) for name in self.unused) for group in UNUSED}
        unused = ", ".join(f"{group} ({count})" for group, count in groups.items() if count)
        used = f"{len(self.weights)} of {entries} entries used"
        logger.info(
            "%s has %s under the published names: %s; not used: %s", self.path, self._kind(), used, unused or "none"
        )
        if self.missing:
            told = "lacks weights of the part modules, which start fresh (retrieval uses none of them)"
            logger.warning("%s %s: %s", self.path, told, name_some(self.missing))
        if self.unknown:
            told = "has entries that this network leaves out, though its own may need them"
            logger.warning("%s %s: %s", self.path, told, name_some([_shown(name) for name in self.unknown]))
        if not abs(self.power - 3) < 1e-3:
            logger.warning("%s has gem.p %g: the exponent of this network's power mean is 3", self.path, self.power)
        for kind in ("missing", "unused", "unknown"):
            names = [_shown(name) for name in getattr(self, kind)]
            logger.debug("%s, %s: %s", self.path, kind, ", ".join(names) or "nothing")

    def _kind(self) -> str:
        parts = "without part modules" if self.parts is None else f"with {self.parts} parts"
        return f"a {self.architecture} {parts}"


def authors_name(ours: str) -> str:
    """``backbone.stages.2.1.bn1.bias -> base_resnet.base.layer3.1.bn1.bias``; see the tests for all kinds of names."""
    first, *rest = ours.split(".")
    if first == "backbone" and rest[0] in STEMS:
        return ".".join([STEMS[rest[0]], LAYERS[rest[1]], *rest[2:]])
    if first == "backbone":
        return ".".join([STAGES, f"layer{int(rest[1]) + 1}", *rest[2:]])
    if first == "norm":
        return ".".join(["bottleneck", *rest])
    return TOKENS if rest == ["tokens"] else ".".join([PART_NORM, *rest[1:]])


def authors_state(network: SALCRNetwork) -> dict[str, torch.Tensor]:
    """The weights of ``network`` under the names of the published code, without those that its forward never uses."""
    return {authors_name(name): x for name, x in network.state_dict().items()}


def authors_weights(state: Mapping[str, Any], path: Path) -> AuthorsWeights:
    """The weights that ``state``, which was read from ``path``, holds under the published names.

    Args:
        state: tensors by name, alone or below ``state_dict`` or ``model``, names possibly behind ``module.``.

    Raises:
        ValueError: there are none; no network of this project has such blocks; one that retrieval needs is missing;
            one has another shape or is not finite. The message, one line, names ``path`` and the first five.
    """
    tensors = tensors_by_name(state)
    if not any(name.startswith((*STEMS.values(), STAGES)) for name in tensors):
        raise ValueError(
            f"{path} is no checkpoint of this project, and has no weights under the published names ({STAGES}.layer1…) "
            f"either, but {describe(tensors or state)}"
        )
    architecture = _architecture(tensors, path)
    parts = _parts(tensors, ARCHITECTURES[architecture].width, path)
    with torch.device("meta"):
        own = SALCRNetwork(architecture, parts or 3).state_dict()
    published = {authors_name(name): name for name in own}
    counters = [name for name in published if name.endswith("num_batches_tracked")]
    missing = tuple(name for name in PART_WEIGHTS if name not in tensors)
    wanted = [name for name in published if name not in counters and name not in missing]
    if wrong := misfits({name: own[published[name]] for name in wanted}, tensors):
        raise ValueError(f"{path} does not fit a {architecture}: {wrong}")
    used = [*wanted, *(name for name in counters if _is_count(tensors.get(name)))]
    weights = {published[name]: tensors[name] for name in used}
    unused = tuple(name for name in tensors if any(re.fullmatch(pattern, name) for pattern in UNUSED.values()))
    unknown = tuple(sorted(tensors.keys() - published.keys() - {*unused}))
    return AuthorsWeights(path, architecture, parts, weights, missing, unused, unknown, _power(tensors))


def _architecture(tensors: Mapping[str, torch.Tensor], path: Path) -> str:
    """The one with the file's blocks, which their names tell."""
    names = [[name.split(".")[3] for name in tensors if name.startswith(f"{STAGES}.layer{n}.")] for n in range(1, 5)]
    blocks = tuple(len({*stage}) for stage in names)
    bottleneck = f"{STAGES}.layer1.0.conv3.weight" in tensors
    for name, shape in ARCHITECTURES.items():
        if (blocks, bottleneck) == (shape.blocks, shape.bottleneck):
            return name
    known = ", ".join(f"{name} {shape.blocks}" for name, shape in ARCHITECTURES.items())
    raise ValueError(f"{path} holds stages of {blocks} {'bottlenecks' if bottleneck else 'blocks'}: known are {known}")


def _parts(tensors: Mapping[str, torch.Tensor], width: int, path: Path) -> int | None:
    tokens, norm = (tensors.get(name) for name in PART_WEIGHTS[:2])
    if tokens is not None and is_dense(tokens) and tokens.ndim == 2:
        parts = len(tokens)
    elif norm is not None and is_dense(norm) and norm.ndim == 1:
        parts = len(norm) // width
    else:
        return None
    if not 1 <= parts <= MOST_PARTS:
        raise ValueError(f"{path}: parts must be from 1 to {MOST_PARTS}, got {parts} in {TOKENS} or {PART_NORM}.weight")
    return parts


def _is_count(x: torch.Tensor | None) -> bool:
    return x is not None and is_dense(x) and x.ndim == 0 and not (x.is_floating_point() or x.is_complex())


def _power(tensors: Mapping[str, torch.Tensor]) -> float:
    p = tensors.get("gem.p")
    known = p is not None and is_dense(p) and p.is_floating_point() and p.numel() == 1
    return float(p) if known else 3.0


def _shown(name: str) -> str:
    """A name from a foreign file, escaped and shortened for a line of the log."""
    return repr(name[:80])[1:-1]
