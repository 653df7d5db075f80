import importlib.util

import numba
import pytest
from numba.core import caching

from salcr.data.synthetic import raster
from salcr.jit import njit
from salcr.ops.backends.numba import ranking


def refuse(*_, **__):
    raise OSError("Read-only file system")


@pytest.mark.parametrize("module", [ranking, raster], ids=lambda module: module.__name__)
def test_a_module_needs_no_folder_for_numbas_cache(monkeypatch, module):
    """Neither beside the module nor at home, as in a container that runs as nobody."""
    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refuse)
    copy = importlib.util.module_from_spec(importlib.util.spec_from_file_location("copy", module.__file__))
    copy.__spec__.loader.exec_module(copy)
    compiled = [x for x in vars(copy).values() if isinstance(x, type(ranking._measure))]
    assert compiled and all(isinstance(function._cache, caching.NullCache) for function in compiled)


def test_other_errors_of_the_compiler_are_not_hidden(monkeypatch):
    def fail(**_):
        raise RuntimeError("no compiler today")

    monkeypatch.setattr(numba, "njit", fail)
    with pytest.raises(RuntimeError, match="no compiler today"):
        njit()(lambda x: x)
