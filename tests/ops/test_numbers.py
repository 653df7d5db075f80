"""Where an operator with a gradient means a number, a tensor is an error: it would get no gradient."""

import pytest
import torch

from salcr import ops

X, MEMORY, ROWS = torch.ones(3, 2), torch.eye(2), torch.tensor([0, 1, -1])
MAPS, TOKENS = torch.ones(3, 2, 2, 2), torch.ones(2, 2)
NUMBERS = {
    "temperature of cluster_contrast": lambda n: ops.cluster_contrast(X, MEMORY, ROWS, temperature=n),
    "temperature of cluster_contrast_sum": lambda n: ops.cluster_contrast_sum(X, [MEMORY], [ROWS], temperature=n),
    "temperature of set_contrast": lambda n: ops.set_contrast(X, MEMORY, ROWS[:, None], temperature=n),
    "temperature of instance_neighbors": lambda n: ops.instance_neighbors(X, MEMORY, 1, temperature=n),
    "temperature of instance_search": lambda n: ops.instance_search(X, MEMORY, 1, temperature=n),
    "momentum of update_cluster_memory_": lambda n: ops.update_cluster_memory_(MEMORY.clone(), X, ROWS, momentum=n),
    "p of gem_pool": lambda n: ops.gem_pool(MAPS, n),
    "eps of gem_pool": lambda n: ops.gem_pool(MAPS, eps=n),
    "p of semantic_pool": lambda n: ops.semantic_pool(MAPS, TOKENS, p=n),
    "eps of semantic_pool": lambda n: ops.semantic_pool(MAPS, TOKENS, eps=n),
}


@pytest.mark.parametrize("what", NUMBERS)
def test_what_is_no_number_is_an_error(what):
    call, name = NUMBERS[what], what.split()[0]
    for value in (torch.nn.Parameter(torch.tensor(0.5)), torch.tensor(0.5), "0.5", True, None):
        with pytest.raises(TypeError, match=f"{name} must be a number, got {type(value).__name__}"):
            call(value)
    for value in (torch.nan, torch.inf, -1.0):
        with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
            call(value)
    call(1)


@pytest.mark.parametrize("operator", [ops.instance_neighbors, ops.instance_search])
def test_k_is_an_integer(operator):
    for value in (2.0, True, torch.tensor(2)):
        with pytest.raises(TypeError, match=f"k must be an int, got {type(value).__name__}"):
            operator(X, MEMORY, value)
    with pytest.raises(ValueError, match="k must be between 1 and"):
        operator(X, MEMORY, 2**63)
