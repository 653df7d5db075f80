import pytest
import torch

from tests.engine.tree import write_tree


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A small data set; tests that change one make their own."""
    return write_tree(tmp_path_factory.mktemp("tree") / "sysu")


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """The tensors here are tiny, and threads that wait for each other on a busy machine make them ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
