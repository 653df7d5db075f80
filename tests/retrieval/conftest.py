import pytest
import torch

from salcr.models import SALCRNetwork
from tests.engine.conftest import narrow  # noqa: F401
from tests.retrieval.pictures import HEIGHT, WIDTH, write_pictures


def save_network(path, seed=1):
    torch.manual_seed(seed)
    config = {"model": {"architecture": "tiny", "parts": 2}, "data": {"height": HEIGHT, "width": WIDTH}}
    torch.save({"config": config, "network": SALCRNetwork("tiny", 2).state_dict()}, path)
    return path


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory):
    """A training checkpoint of an untrained network."""
    return save_network(tmp_path_factory.mktemp("network") / "epoch_0000.pt")


@pytest.fixture(scope="package")
def other_checkpoint(tmp_path_factory):
    """One of other weights."""
    return save_network(tmp_path_factory.mktemp("other") / "epoch_0000.pt", seed=2)


@pytest.fixture
def pictures(tmp_path):
    """A tree of 12 pictures, half of them infrared; see :func:`tests.retrieval.pictures.write_pictures`."""
    return write_pictures(tmp_path / "pictures")


@pytest.fixture(scope="package")
def indexed(checkpoint, tmp_path_factory):
    """An index of such a tree, float32, which tests do not change."""
    from salcr.retrieval import build_index

    folder = tmp_path_factory.mktemp("indexed")
    build_index([write_pictures(folder / "pictures")], checkpoint, folder / "index", dtype="float32", device="cpu")
    return folder
