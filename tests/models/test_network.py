import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from salcr.models import SALCRNetwork

S = 4


def images(generator, rows=S, size=(96, 48)):
    return torch.rand(rows, 3, *size, generator=generator, dtype=torch.float64) * 2 - 1


def network_of(generator, parts=3, **options):
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
    return SALCRNetwork("tiny", parts, **options).double()


def trained(network, generator):
    """Statistics that are no longer those of a fresh norm."""
    network.train()
    with torch.no_grad():
        network(images(generator, 2 * S), images(generator), with_parts=True)
    return network.eval()


def test_the_global_feature_is_the_norm_of_the_power_mean(generator):
    network = network_of(generator).train()
    visible, infrared = images(generator, 2 * S), images(generator)
    found = network(visible, infrared, with_parts=False)
    maps = network.backbone(visible, infrared)
    g = maps.pow(3).mean((2, 3)).add(1e-12).pow(1 / 3)
    expected = (g - g.mean(0)) / (g.var(0, unbiased=False) + 1e-5).sqrt() * network.norm.weight
    torch.testing.assert_close(found.f, expected)
    assert found.parts is None and found.f.shape == (3 * S, network.width)
    assert (found.f.norm(dim=1) - 1).abs().min() > 1e-3  # raw, not normalised


@pytest.mark.parametrize("parts", [1, 3])
def test_part_features_come_in_the_shape_the_objectives_take(generator, parts):
    network = network_of(generator, parts).train()
    found = network(images(generator, 2 * S), images(generator), with_parts=True)
    assert found.parts.shape == (parts, 3, 3 * S, network.width)
    assert network.parts.norm.num_batches_tracked == 3 and network.norm.num_batches_tracked == 1


def test_stage_one_leaves_the_parts_alone(generator):
    network = network_of(generator).train()
    before = {name: x.clone() for name, x in network.parts.state_dict().items()}
    network(images(generator, 2 * S), images(generator), with_parts=False).f.square().sum().backward()
    assert all(x.grad is None for x in network.parts.parameters())
    assert all(torch.equal(x, before[name]) for name, x in network.parts.state_dict().items())


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("infrared", [False, True])
def test_embed_is_one_unit_vector_of_parts_then_global(generator, parts, infrared):
    network = trained(network_of(generator, parts), generator)
    x = images(generator, 3)
    found = network.embed(x, infrared=infrared)
    width = network.width
    assert found.f.shape == (3, width) and found.joint.shape == (3, (parts + 1) * width)
    for rows in found:
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3, dtype=torch.float64))
    maps = network.backbone(None, x) if infrared else network.backbone(x, None)
    z = [network.parts.own(maps)[:, p] for p in range(parts)]
    f = network.norm(network.gem(maps))
    torch.testing.assert_close(found.f, F.normalize(f))
    length = sum(v.square().sum(1) for v in [*z, f]).sqrt()
    for n, slot in enumerate([*z, f]):
        torch.testing.assert_close(found.joint[:, n * width : (n + 1) * width], slot / length[:, None])


def test_embed_does_not_depend_on_the_rest_of_the_batch(generator):
    network = trained(network_of(generator), generator)
    before = {name: x.clone() for name, x in network.state_dict().items()}
    x = images(generator, 4)
    together = network.embed(x, infrared=True)
    for b in range(4):
        alone = network.embed(x[b : b + 1], infrared=True)
        torch.testing.assert_close(alone.f[0], together.f[b])
        torch.testing.assert_close(alone.joint[0], together.joint[b])
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())


def test_in_eval_mode_training_features_are_the_embedding(generator):
    network = trained(network_of(generator), generator)
    visible, infrared = images(generator, 2 * S), images(generator)
    found = network(visible, infrared, with_parts=True)
    sides = network.embed(visible, infrared=False), network.embed(infrared, infrared=True)
    torch.testing.assert_close(F.normalize(found.f), torch.cat([side.f for side in sides]))
    joint = torch.cat([*found.parts[:, 0], found.f], dim=1)  # own form
    torch.testing.assert_close(F.normalize(joint), torch.cat([side.joint for side in sides]))


def test_biases_stay_zero_under_adam_with_weight_decay_and_the_rest_learns(generator):
    network = network_of(generator).train()
    before = {name: x.detach().clone() for name, x in network.named_parameters()}
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(2):
        found = network(images(generator, 2 * S), images(generator), with_parts=True)
        aims = (torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in found)
        optimiser.zero_grad()
        sum((x - aim).square().mean() for x, aim in zip(found, aims, strict=True)).backward()
        optimiser.step()
    frozen = {name for name, x in network.named_parameters() if not x.requires_grad}
    assert frozen == {"norm.bias", "parts.norm.bias"}
    for name, x in network.named_parameters():
        if name in frozen:
            assert x.grad is None and not x.any(), name
        else:
            assert not torch.equal(x, before[name]), name


def test_the_switch_of_the_published_code_replaces_rows_after_the_norm(generator):
    """docs/method.md, "Differences from the published code": unit rows of a's pg2 for its pg1, and nothing else."""
    network = network_of(generator).train()
    twin = SALCRNetwork("tiny", authors_pg1=True).double()
    twin.load_state_dict(network.state_dict())
    visible, infrared = images(generator, 2 * S), images(generator)
    plain, quirk = (n(visible, infrared, with_parts=True) for n in (network, twin))
    expected = F.normalize(plain.parts, dim=-1)
    augmented = slice(S, 2 * S)
    assert not torch.allclose(expected[:, 1, augmented], expected[:, 2, augmented])
    expected[:, 1, augmented] = expected[:, 2, augmented]
    torch.testing.assert_close(F.normalize(quirk.parts, dim=-1), expected)
    torch.testing.assert_close(quirk.f, plain.f)
    torch.testing.assert_close(twin.state_dict(), network.state_dict())  # running statistics of the true pg1


@pytest.mark.parametrize("with_parts", [False, True])
def test_views_that_do_not_match_are_refused(generator, with_parts):
    network = network_of(generator).eval()
    for visible, infrared in ((4, 5), (5, 1)):  # nine and six rows, but no three views
        with pytest.raises(ValueError, match=f"{infrared} positions of infrared, got {visible} images"):
            network(images(generator, visible), images(generator, infrared), with_parts=with_parts)


def test_a_seed_makes_the_network(seed):
    states = []
    for _ in range(2):
        torch.manual_seed(seed)
        states.append(SALCRNetwork("tiny").state_dict())
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())


@pytest.mark.parametrize(("dtype", "gigabytes"), [(torch.bfloat16, 17.7), (torch.float32, 34.8)])
def test_maps_kept_for_the_backward_pass_of_a_batch_are_as_many_as_the_page_says(dtype, gigabytes):
    """docs/method.md, "Batches"."""
    kept = {}

    def keep(x):
        kept[x.untyped_storage()._cdata] = x
        return x

    with FakeTensorMode():
        network = SALCRNetwork("resnet50").train()
        visible, infrared = (
            torch.empty(views, 3, 288, 144, dtype=dtype, device="cpu").contiguous(memory_format=torch.channels_last)
            for views in (288, 144)
        )
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            network(visible, infrared, with_parts=True)
        for parameter in network.parameters():
            kept.pop(parameter.untyped_storage()._cdata, None)
        assert round(sum(x.untyped_storage().nbytes() for x in kept.values()) / 1e9, 1) == gigabytes
