import pytest
import torch

from salcr.models import SALCRNetwork
from salcr.models.authors import authors_name, authors_state


def test_the_published_names_and_shapes():
    with torch.device("meta"):
        network = SALCRNetwork("resnet50", 3)
    state = authors_state(network)
    assert len(state) == len(network.state_dict())
    shapes = {
        "visible_module.visible.conv1.weight": (64, 3, 7, 7),
        "visible_module.visible.bn1.running_var": (64,),
        "thermal_module.thermal.conv1.weight": (64, 3, 7, 7),
        "thermal_module.thermal.bn1.num_batches_tracked": (),
        "base_resnet.base.layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "base_resnet.base.layer3.5.bn2.running_mean": (256,),
        "base_resnet.base.layer4.2.conv3.weight": (2048, 512, 1, 1),
        "bottleneck.weight": (2048,),
        "bottleneck_part.running_mean": (3 * 2048,),
        "attn_pool.part_tokens": (3, 2048),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    roots = {"visible_module", "thermal_module", "base_resnet", "bottleneck", "bottleneck_part", "attn_pool"}
    assert {name.partition(".")[0] for name in state} == roots


@pytest.mark.parametrize(
    ("ours", "published"),
    [
        ("backbone.visible_stem.0.weight", "visible_module.visible.conv1.weight"),
        ("backbone.infrared_stem.1.bias", "thermal_module.thermal.bn1.bias"),
        ("backbone.stages.2.1.bn1.bias", "base_resnet.base.layer3.1.bn1.bias"),
        ("norm.running_mean", "bottleneck.running_mean"),
        ("parts.norm.weight", "bottleneck_part.weight"),
        ("parts.tokens", "attn_pool.part_tokens"),
    ],
)
def test_each_module_has_its_published_name(ours, published):
    assert authors_name(ours) == published


@pytest.mark.parametrize("architecture", ["tiny", "resnet18"])
def test_no_weight_is_lost(architecture):
    with torch.device("meta"):
        network = SALCRNetwork(architecture, 2)
    state = authors_state(network)
    for name, x in network.state_dict().items():
        assert state[authors_name(name)].shape == x.shape
