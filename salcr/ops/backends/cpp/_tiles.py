"""Inner products of all pairs of rows, a tile at a time: what a search in C++ reads while the tile is in the cache."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

TILE_ROWS = 1024
TILE_BYTES = 2**25


class Tile(NamedTuple):
    products: torch.Tensor
    top: int
    left: int


def tiles(rows: torch.Tensor, columns: torch.Tensor, *, symmetric: bool) -> Iterator[Tile]:
    """Tiles of ``rows @ columns.T``, each overwritten by the next; where ``symmetric``, from the diagonal on."""
    height = min(TILE_ROWS, len(rows))
    width = min(max(1, TILE_BYTES // (height * rows.element_size())), len(columns))
    memory = rows.new_empty(height * width)
    for top in range(0, len(rows), height):
        block = rows[top : top + height]
        for left in range(top if symmetric else 0, len(columns), width):
            others = columns[left : left + width]
            products = memory[: len(block) * len(others)].view(len(block), len(others))
            yield Tile(torch.mm(block, others.T, out=products), top, left)
