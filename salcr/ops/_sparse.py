"""torch.sparse_csr matrices from their parts."""

import warnings

import torch


def csr_tensor(
    pointers: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, width: int | None = None
) -> torch.Tensor:
    """A torch.sparse_csr matrix of its three parts, which are not checked; square, unless it has another ``width``.

    Raises:
        NotImplementedError: in a compiled graph; without ``fullgraph`` the matrix is then made uncompiled.
    """
    if torch.compiler.is_compiling():
        raise NotImplementedError(
            "PyTorch compiles and exports no sparse matrix: leave out fullgraph or call torch.ops.salcr.jaccard_graph, "
            "which returns its row pointers, columns and values"
        )
    count = len(pointers) - 1
    size = count, count if width is None else width
    with warnings.catch_warnings():
        # torch < 2.13 says that invariants are not checked even where check_invariants=False says so
        beta, unchecked = "CSR tensor support is in beta", "invariant checks are implicitly disabled"
        warnings.filterwarnings("ignore", f"Sparse ({beta}|{unchecked})", UserWarning)
        return torch.sparse_csr_tensor(
            pointers, columns, values, size=size, device=values.device, check_invariants=False
        )


def csr_of_all(distances: torch.Tensor) -> torch.Tensor:
    """A dense square matrix as torch.sparse_csr that stores every entry."""
    count = len(distances)
    places = torch.arange(count + 1, device=distances.device)
    return csr_tensor(places * count, places[:-1].repeat(count), distances.view(-1))
