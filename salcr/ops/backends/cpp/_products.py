"""Products of feature rows with memory rows in blocks, which C++ turns in place into what the next product takes.

Features are not normalised: their norms are factors of a row of products. Beside the results only the scratch of one
block is in memory.
"""

from collections.abc import Iterator

import numpy as np
import torch

SCRATCH = 2**23
"""Products in the scratch at a time."""


def blocks_of_products(
    rows: torch.Tensor, memories: torch.Tensor, temperature: float
) -> Iterator[tuple[tuple[int, slice], torch.Tensor, torch.Tensor]]:
    """Which rows, their products with their part's memory (overwritten by the next block), and a factor for each row.

    Args:
        rows, memories: ``[P, B, D]`` and ``[P, N, D]``, contiguous.
    """
    (parts, count, _), columns = rows.shape, memories.shape[1]
    norms = torch.linalg.vector_norm(rows, dim=-1).double().clamp_min_(1e-12)
    norms.masked_fill_(norms.isinf(), torch.nan)
    scale = norms.mul_(temperature).reciprocal_().to(rows.dtype)
    height = min(count, max(1, SCRATCH // columns))
    height = -(-count // -(-count // height))  # blocks of about the same height
    scratch = rows.new_empty(height, columns)
    for part in range(parts):
        for start in range(0, count, height):
            at = part, slice(start, min(start + height, count))
            products = scratch[: at[1].stop - start]
            torch.mm(rows[at], memories[part].mT, out=products)
            yield at, products, scale[at]


def arrays(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [x.numpy(force=True) for x in tensors]
