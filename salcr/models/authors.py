"""The names that the authors' published code gives to the weights of the network."""

import torch

from salcr.models.network import SALCRNetwork

STEMS = {"visible_stem": "visible_module.visible", "infrared_stem": "thermal_module.thermal"}
LAYERS = {"0": "conv1", "1": "bn1"}


def authors_name(ours: str) -> str:
    """``backbone.stages.2.1.bn1.bias -> base_resnet.base.layer3.1.bn1.bias``; see the tests for all kinds of names."""
    first, *rest = ours.split(".")
    if first == "backbone" and rest[0] in STEMS:
        return ".".join([STEMS[rest[0]], LAYERS[rest[1]], *rest[2:]])
    if first == "backbone":
        return ".".join(["base_resnet.base", f"layer{int(rest[1]) + 1}", *rest[2:]])
    if first == "norm":
        return ".".join(["bottleneck", *rest])
    return {"tokens": "attn_pool.part_tokens"}.get(rest[0]) or ".".join(["bottleneck_part", *rest[1:]])


def authors_state(network: SALCRNetwork) -> dict[str, torch.Tensor]:
    """The weights of ``network`` under the names of the published code, without those that its forward never uses."""
    return {authors_name(name): x for name, x in network.state_dict().items()}
