"""Files of the authors' layout with made-up values: all names and shapes of it, as its users have them."""

from collections.abc import Mapping

import torch

from salcr.models import SALCRNetwork
from salcr.models.authors import authors_state
from salcr.models.resnet import imagenet_state

PARTS = ("attn_pool.", "bottleneck_part.")


def published_state(network: SALCRNetwork) -> dict[str, torch.Tensor]:
    """The network's weights and what else is in such a file: 983 entries for a ResNet-50 with 3 parts.

    In the published code each stem and the shared stages are parts of a whole ResNet, all of whose weights are saved.
    """
    state = authors_state(network)
    whole = imagenet_state(network.backbone)
    whole |= {f"{name.rpartition('.')[0]}.num_batches_tracked": torch.tensor(7) for name in whole if "running" in name}
    for root in ("visible_module.visible", "thermal_module.thermal", "base_resnet.base"):
        state |= {f"{root}.{name}": x + 1 for name, x in whole.items() if f"{root}.{name}" not in state}
    state |= {f"disnet.{n}.weight": torch.ones(2, 2) for n in range(16)}
    return state | {"attn_pool.pos_embeding": torch.zeros(network.width), "gem.p": torch.tensor([3.0])}


def related_state(network: SALCRNetwork) -> dict[str, torch.Tensor]:
    """What the related repositories save: no part modules, a classifier."""
    state = {name: x for name, x in published_state(network).items() if not name.startswith((*PARTS, "disnet."))}
    return state | {"classifier.weight": torch.ones(395, network.width)}


def wrapped(state: Mapping[str, torch.Tensor]) -> dict:
    """As the authors' code saves it."""
    return {"state_dict": dict(state), "epoch": 39, "best_mAP": 0.6}


def behind_module(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As ``torch.nn.DataParallel`` names them."""
    return {f"module.{name}": x for name, x in state.items()}
