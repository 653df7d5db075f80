import pytest
import torch

from salcr import ops
from salcr.ops.backends.cpp import knn


@pytest.fixture(params=["bytes", "floats"])
def screen(request, monkeypatch):
    """Each way of looking at rows in float16 before they are scored; without AVX-512 VNNI there is one."""
    monkeypatch.setattr(knn, "SCREEN", request.param)
    try:
        ops.knn(torch.ones(1, 1), 1, database=torch.ones(1, 1).half(), impl="cpp")
    except ValueError as error:
        assert "cannot screen in bytes" in str(error)
        pytest.skip("this processor has no AVX-512 VNNI")
    return request.param
