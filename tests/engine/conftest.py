import pytest

from tests.engine.tree import write_tree


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A small data set; tests that change one make their own."""
    return write_tree(tmp_path_factory.mktemp("tree") / "sysu")
