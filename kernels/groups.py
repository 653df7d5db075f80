"""Several contrasts or searches in one launch: which of them a program works for.

There are G tensors of features ``[P, B, D]``, of any P and B, and each meets n memories ``[P, N, D]`` of any N; all
have one width and device, the features one dtype and the memories one. A *term* is features with a memory: memory i of
features g is the term i·G + g. What a row has is kept side by side: of a row of features as ``[R]``, of a row and a
memory as ``[n, R]``, where R counts the rows of all features. What is as wide as a memory, or comes from outside, is a
tuple with a tensor a term.

Kernels take the tuples and choose by comparing scalars, so that no table of addresses is copied to the device; a launch
of one term compares nothing. Triton compiles anew where a size is 1 or 16 divides it and it was not so before, and the
number of clusters changes with every epoch: sizes travel as odd numbers, n as 2n + 1. ``place * 0`` is a zero of the
type of ``place``, so that results have one type, however many terms there are.
"""

from collections.abc import Iterable, Sequence

import torch
import triton
import triton.language as tl


@triton.jit
def chosen(options, index):
    """``options[index]`` of a tuple of numbers or of pointers; ``index`` is known as the kernel runs."""
    found = options[0]
    for i in tl.static_range(1, len(options)):
        found = tl.where(index == i, options[i], found)
    return found


@triton.jit
def size_of(sizes, index):
    """One of a tuple of :func:`coded` sizes."""
    return chosen(sizes, index) >> 1


@triton.jit
def rows_of(parts, rows, group: tl.constexpr):
    """Rows of all parts."""
    return (parts[group] >> 1) * (rows[group] >> 1)


@triton.jit
def row_of(place, parts, rows):
    """The features that a row among all belongs to, their first row among all, and the row's part."""
    group, first, behind = 0, place * 0, place * 0
    for g in tl.static_range(1, len(rows)):
        behind += rows_of(parts, rows, g - 1)
        group = tl.where(place >= behind, g, group)
        first = tl.where(place >= behind, behind, first)
    return group, first, (place - first) // size_of(rows, group)


@triton.jit
def tile_of(program, parts, rows, columns, M: tl.constexpr, N: tl.constexpr):
    """What a program works on: its term, the row among all at which its part begins, the part, and the first row and
    column of its tile in that. Programs take the tiles of one term after the other, down the rows first."""
    GROUPS: tl.constexpr = len(rows)
    term, place, behind = 0, program, program * 0
    for i in tl.static_range(1, len(columns)):
        heights = (parts[(i - 1) % GROUPS] >> 1) * tl.cdiv(rows[(i - 1) % GROUPS] >> 1, M)
        behind += heights * tl.cdiv(columns[i - 1] >> 1, N)
        term = tl.where(program >= behind, i, term)
        place = tl.where(program >= behind, program - behind, place)
    group, first = term % GROUPS, program * 0
    for g in tl.static_range(1, GROUPS):
        first += tl.where(group >= g, rows_of(parts, rows, g - 1), 0)
    height, across = tl.cdiv(size_of(rows, group), M), tl.cdiv(size_of(columns, term), N)
    part = place // (height * across)
    begin = first + part.to(tl.int64) * size_of(rows, group)
    return term, begin, part.to(tl.int64), place % height * M, place // height % across * N


@triton.jit
def all_rows(parts, rows):
    """R."""
    total = rows_of(parts, rows, 0)
    for g in tl.static_range(1, len(rows)):
        total += rows_of(parts, rows, g)
    return total


def coded(sizes: Iterable[int]) -> tuple[int, ...]:
    """Odd numbers for :func:`size_of`."""
    return tuple(2 * size + 1 for size in sizes)


class Terms:
    """Features and memories as kernels take them, and their sizes; all contiguous, ``memories`` a term each.

    ``dtype`` is that of the memories, in which rows are multiplied, and with ``tf32`` float32 ones in a single product
    of TF32. Features of another dtype are rounded to it by :func:`products.inverse_norms`.
    """

    def __init__(
        self, features: Sequence[torch.Tensor], memories: Sequence[torch.Tensor], *, tf32: bool = False
    ) -> None:
        self.features, self.memories = tuple(features), tuple(memories)
        self.count = len(memories) // len(features)  # n
        self.parts = tuple(len(x) for x in features)
        self.rows = tuple(x.shape[1] for x in features)
        self.columns = tuple(memory.shape[1] for memory in memories)
        self.width, self.device, self.dtype = features[0].shape[-1], features[0].device, memories[0].dtype
        self.tf32 = tf32
        self.sizes = coded(self.parts), coded(self.rows)  # the arguments ``parts`` and ``rows`` of kernels

    @property
    def all_rows(self) -> int:
        """R."""
        return sum(parts * rows for parts, rows in zip(self.parts, self.rows, strict=True))

    def of_features(self, of_group: Sequence) -> tuple:
        """Of every term what its features have."""
        return tuple(of_group) * self.count

    def tiles(self, columns: Sequence[int], height: int, across: int) -> int:
        """Tiles of ``height`` rows and ``across`` columns, of which each term has so many."""
        heights = (parts * triton.cdiv(rows, height) for parts, rows in zip(self.parts, self.rows, strict=True))
        terms = zip(self.of_features(heights), columns, strict=True)
        return sum(tiles * triton.cdiv(wide, across) for tiles, wide in terms)

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def split(self, x: torch.Tensor) -> list[torch.Tensor]:
        """``[n, R, ...]`` as ``[n, P, B, ...]`` of each of the features."""
        shapes = list(zip(self.parts, self.rows, strict=True))
        pieces = x.split([parts * rows for parts, rows in shapes], dim=1)
        return [piece.unflatten(1, shape) for piece, shape in zip(pieces, shapes, strict=True)]
