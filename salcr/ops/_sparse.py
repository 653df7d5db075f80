"""Square torch.sparse_csr matrices from their parts."""

import warnings

import torch


def csr_tensor(pointers: torch.Tensor, columns: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A square torch.sparse_csr matrix of its three parts, which are not checked."""
    count = len(pointers) - 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        warnings.filterwarnings("ignore", "Sparse invariant checks are implicitly disabled", UserWarning)
        return torch.sparse_csr_tensor(
            pointers, columns, values, size=(count, count), device=values.device, check_invariants=False
        )


def csr_of_all(distances: torch.Tensor) -> torch.Tensor:
    """A dense square matrix as torch.sparse_csr that stores every entry."""
    count = len(distances)
    places = torch.arange(count + 1, device=distances.device)
    return csr_tensor(places * count, places[:-1].repeat(count), distances.view(-1))
