"""What a run's network is built from and computes in, and how its convolutions are chosen."""

import pytest
import torch

from salcr.engine import load_config, train
from salcr.engine.network import product_precision
from salcr.engine.run_folder import RunFolder
from salcr.engine.trainer import Trainer
from salcr.models.features import autocast, network_precision
from salcr.ops._dispatch import PREFERRED, check_impl
from tests.engine.tree import tiny

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture(params=[(7, 5), (8, 0), (9, 0)], ids="sm_{0[0]}{0[1]}".format)
def has_bfloat16(request, monkeypatch):
    """On the second GPU, if not on the first one."""
    capabilities = {GPU: request.param}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capabilities.get(device, (7, 5)))
    return request.param >= (8, 0)


def test_auto_is_bfloat16_where_the_device_has_it(has_bfloat16):
    assert network_precision("auto", GPU) == ("bfloat16" if has_bfloat16 else "float32")
    assert network_precision("auto", CPU) == "float32"
    for precision in ("float32", "bfloat16", "float64"):
        assert network_precision(precision, GPU) == network_precision(precision, CPU) == precision
    assert product_precision(load_config(), GPU) == network_precision("auto", GPU)
    assert product_precision(load_config(), CPU) == "float32"


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_autocast_computes_in_it(precision):
    with autocast(CPU, precision):
        assert torch.is_autocast_enabled("cpu") == (precision == "bfloat16")
        assert precision != "bfloat16" or not torch.is_autocast_cache_enabled()  # rounded weights do not outlive a call


@pytest.mark.parametrize(
    ("network", "products", "expected"),
    [
        ("float32", "auto", "float32"),
        ("bfloat16", "auto", "bfloat16"),
        ("float64", "auto", "float32"),
        ("float32", "bfloat16", "bfloat16"),
        ("bfloat16", "tf32", "tf32"),
        ("bfloat16", "float32", "float32"),
    ],
)
def test_products_have_the_precision_of_the_network_or_their_own(network, products, expected):
    config = load_config(overrides=[f"schedule.precision={network}", f"objectives.precision={products}"])
    assert product_precision(config, CPU) == product_precision(config, GPU) == expected


@pytest.mark.parametrize("before", [False, True])
def test_a_run_times_convolutions_and_is_on_its_backend(tree, tmp_path, monkeypatch, before):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    seen = []

    def epoch(*_):
        seen.append((torch.backends.cudnn.benchmark, check_impl("auto").removesuffix(PREFERRED)))
        raise KeyError

    monkeypatch.setattr("salcr.engine.trainer.stage_one_epoch", epoch)
    with pytest.raises(KeyError):
        train(load_config(overrides=tiny(tree, "backend=reference")), tmp_path)
    assert seen == [(True, "reference")] and torch.backends.cudnn.benchmark == before


def test_missing_weights_are_found_before_images_are_decoded(tree, tmp_path):
    cache = f"data.cache={tmp_path / 'cache'}"
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        Trainer(load_config(overrides=tiny(tree, cache, "model.weights=absent.pth")), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "cache").exists()
