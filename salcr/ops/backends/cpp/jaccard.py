"""Jaccard distances on the CPU: sparse rows in C++ all the way.

The graph of all rows is one call. Its steps for some rows of many follow below it; :mod:`salcr.ops._sharded` puts them
together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from salcr.ops._sparse import csr_tensor


def jaccard_distance(
    features: torch.Tensor,
    products: torch.Tensor,
    ranks: torch.Tensor,
    *,
    half: int,
    k2: int,
    factors: torch.Tensor | None = None,
) -> torch.Tensor:
    """Distances ``[N, N]`` of features of any length, given each row's ranks ``[N, k1]`` and cosines with them.

    ``factors [N]``, of the features' dtype, multiply each row's squared distances before the softmax.
    """
    from salcr import _C

    distances = features.new_empty(len(features), len(features), dtype=torch.float32)
    arrays = _arrays(features, products, ranks, factors)
    _C.jaccard_distance(*arrays, half, k2, distances.numpy(), torch.get_num_threads())
    return distances


def jaccard_graph(
    features: torch.Tensor,
    products: torch.Tensor,
    ranks: torch.Tensor,
    *,
    half: int,
    k2: int,
    max_distance: float,
    factors: torch.Tensor | None = None,
) -> torch.Tensor:
    """The distances up to ``max_distance``, which is below 1, as torch.sparse_csr."""
    from salcr import _C

    arrays = _arrays(features, products, ranks, factors)
    return csr_tensor(
        *map(torch.from_numpy, _C.jaccard_graph(*arrays, half, k2, max_distance, torch.get_num_threads()))
    )


@dataclass(frozen=True)
class SparseBlock:
    """Sparse rows as the extension keeps them: row i is ``entries[pointers[i] : pointers[i + 1]]``."""

    pointers: torch.Tensor
    """``[rows + 1]``, int64."""
    entries: torch.Tensor
    """``[E, 8]`` or ``[E, 16]``, uint8: an int32 column and a float32 or float64 value."""
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.pointers) - 1

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.pointers.numpy(), self.entries.view(-1).numpy()

    def uses(self, columns: int) -> torch.Tensor:
        """How many rows have each column, int32."""
        return torch.bincount(self.entries.view(torch.int32)[:, 0], minlength=columns).int()

    def take(self, rows: torch.Tensor) -> "SparseBlock":
        """The ``rows``, in their order."""
        pointers = F.pad(self.pointers.diff()[rows].cumsum(0), (1, 0))
        shift = (self.pointers[rows] - pointers[:-1]).repeat_interleave(pointers.diff())
        return SparseBlock(pointers, self.entries[torch.arange(len(shift), device=shift.device) + shift], self.dtype)

    def split(self, rows: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Pointers and entries of blocks of so many rows; one at least."""
        parts = []
        for start in range(0, max(1, len(self)), rows):
            pointers = self.pointers[start : start + rows + 1]
            parts.append((pointers - pointers[0], self.entries[int(pointers[0]) : int(pointers[-1])]))
        return parts

    @staticmethod
    def joined(blocks: Sequence["SparseBlock"]) -> "SparseBlock":
        """All rows of the blocks, one block's after the other's."""
        lengths = torch.cat([block.pointers.diff() for block in blocks])
        entries = torch.cat([block.entries for block in blocks])
        return SparseBlock(F.pad(lengths.cumsum(0), (1, 0)), entries, blocks[0].dtype)


def unlisted_pairs(
    ranks: torch.Tensor, products: torch.Tensor, rows: slice, half: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row pointers and images: of each expanded set those whose product with the row is in neither's list."""
    from salcr import _C

    found = _C.jaccard_unlisted_pairs(
        ranks.numpy(), products.numpy(), rows.start, rows.stop, half, torch.get_num_threads()
    )
    pointers, others = map(torch.from_numpy, found)
    return pointers, others


def row_cosines(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The cosine of each row of ``left`` with that of ``right``."""
    from salcr import _C

    if left.device.type != "cpu":
        return (F.normalize(left, dim=1) * F.normalize(right, dim=1)).sum(1)
    arrays = (x.contiguous().numpy() for x in (left, right))
    return torch.from_numpy(_C.row_cosines(*arrays, torch.get_num_threads()))


def weighted_rows(
    ranks: torch.Tensor,
    products: torch.Tensor,
    rows: slice,
    half: int,
    pointers: torch.Tensor,
    unlisted_products: torch.Tensor,
) -> SparseBlock:
    """Encodings of the ``rows`` before they are averaged, given the products of :func:`unlisted_pairs`."""
    from salcr import _C

    pairs = pointers.numpy(), unlisted_products.numpy()
    options = rows.start, rows.stop, half, *pairs, torch.get_num_threads()
    return _block(_C.jaccard_weighted_rows(ranks.numpy(), products.numpy(), *options), products.dtype)


def averaged_rows(places: torch.Tensor, encodings: SparseBlock, columns: int) -> SparseBlock:
    """Means of the encodings at the ``places [rows, k2]`` (int32)."""
    average, threads = _of_dtype("jaccard_averaged_rows", encodings.dtype), torch.get_num_threads()
    return _block(average(places.numpy(), *encodings.arrays(), columns, threads), encodings.dtype)


def rarest_first(block: SparseBlock, uses: torch.Tensor) -> SparseBlock:
    """``block``, changed in place: columns by their place in the order of ``uses``, int32, and ascending in a row."""
    _of_dtype("jaccard_rarest_first", block.dtype)(*block.arrays(), uses.numpy(), torch.get_num_threads())
    return block


def near_pairs(
    block: SparseBlock, others: SparseBlock, offset: int, columns: int, max_distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of rows i of ``block`` and j of ``others``, ``offset`` rows behind, with i before j, that are near."""
    near = _of_dtype("jaccard_near_pairs", block.dtype)
    return near(*block.arrays(), *others.arrays(), offset, columns, max_distance, torch.get_num_threads())


def _arrays(features, products, ranks, factors):
    arrays = [x.contiguous().numpy() for x in (ranks.int(), products, features)]
    return *arrays, None if factors is None else factors.contiguous().numpy()


def _of_dtype(name: str, dtype: torch.dtype):
    from salcr import _C

    return getattr(_C, f"{name}_{str(dtype).removeprefix('torch.')}")


def _block(arrays: tuple[np.ndarray, np.ndarray], dtype: torch.dtype) -> SparseBlock:
    pointers, entries = map(torch.from_numpy, arrays)
    return SparseBlock(pointers, entries.view(-1, 16 if dtype == torch.float64 else 8), dtype)
