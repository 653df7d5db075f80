"""What a call of the Triton kernels reads, writes and multiplies, by kernel, worked out from sizes.

The docstrings of ``kernels`` quote these numbers at the registry's sizes, and ``benchmarks.tune`` prints them beside
what it measures. Tests hold them against the loads, stores and products that interpreted kernels make.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

LISTED = 256  # columns that about reach a row's bound in a neighbour search
SINKHORN_STEPS = 11  # that the registry's costs take


class Work(NamedTuple):
    """Of the launches of a kernel in a call."""

    bytes: int  # loaded, plus stored, each address once a launch: what memory moves where a cache spares the rest
    flops: int = 0  # two for a product of two elements of tiles
    fetched: int = 0  # bytes that the programs load, all together: what the cache gives; 0 where not worked out

    def __mul__(self, times: int) -> "Work":
        return Work(*(times * amount for amount in self))


Kernels = dict[str, Work]


def together(kernels: Mapping[str, Work]) -> Work:
    return Work(*map(sum, zip(*kernels.values(), strict=True)))


def of_case(name: str, *inputs: torch.Tensor) -> Kernels:
    """Of the registry's case ``name`` with these ``inputs``, of which only shapes, types and the device are looked at.

    Empty where it is not worked out here.
    """
    return OF_CASES[name](*inputs) if name in OF_CASES else {}


def knn(queries: int, size: int, width: int, entries: int, every: int, group: int, tile: Mapping[str, int]) -> Kernels:
    """Products of all rows, in one chunk of columns, and so many ``entries`` of the lists of candidates.

    The first kernel multiplies one of ``every`` so many columns, and keeps the largest of each ``group`` of products.
    ``tile`` is the launch table's entry of both.
    """
    row, sampled = 2 * _up(width, tile["K"]), _cdiv(size, every)
    blocks, across, sampled_across = (_cdiv(n, tile[side]) for n, side in ((queries, "M"), (size, "N"), (sampled, "N")))
    of_tile = (tile["M"] + tile["N"]) * row
    maxima = 4 * queries * sampled_across * tile["N"] // group
    return {
        "maxima_kernel": Work(
            (queries + sampled) * row + 4 * sampled + maxima,
            queries * sampled * row,
            blocks * (sampled_across * of_tile + 4 * sampled),
        ),
        "collect_kernel": Work(
            (queries + size) * row + 4 * (size + queries) + 8 * entries,
            queries * size * row,
            blocks * (across * of_tile + 4 * size) + 4 * across * queries,
        ),
    }


def contrast(
    parts: int, rows: int, columns: int, width: int, itemsize: int, chunk: int, tile: Mapping[str, int]
) -> Kernels:
    """The products of features with targets and one memory, forward and backward, in chunks of columns."""
    every, down, across = parts * rows, _cdiv(rows, tile["M"]), _cdiv(columns, tile["N"])
    operands, flops = itemsize * (every + parts * columns) * width, 2 * every * columns * width
    of_tile = itemsize * (tile["M"] + tile["N"]) * width + (4 + 8) * tile["M"]  # norms and targets
    chunks, written = _cdiv(columns, chunk), _reached(columns, chunk, max(tile["N"], tile["K"]))
    return {
        "lse_tiles_kernel": Work(
            operands + (4 + 8 + 4 + 8 * across) * every,
            flops,
            parts * down * across * of_tile,
        ),
        "weights_kernel": Work(
            operands + every * ((chunks - 1) * itemsize * width + chunks * (4 + 4 + 8) + itemsize * written), flops
        ),
        "mean_row_kernel": Work(_mean_rows(parts, rows, columns, width, itemsize, chunk, tile), flops),
    }


def search(
    parts: int,
    rows: int,
    columns: int,
    width: int,
    itemsize: int,
    chunk: int,
    slots: int,
    tile: Mapping[str, int],
    mean_tile: Mapping[str, int],
    *,
    of_weights: int | None = None,
) -> Kernels:
    """Logits, selection and mean rows, these of ``of_weights`` bytes an element, in chunks of columns.

    Logits of float32 take three products of halves, in tiles of their own.
    """
    every, chunks, weight = parts * rows, _cdiv(columns, chunk), of_weights or itemsize
    flops, written = 2 * every * columns * width, _reached(columns, chunk, max(tile["N"], tile["K"]))
    winners = 2 * chunks - 1  # times that they are stored, and loaded again
    return {
        "weights_kernel": Work(
            itemsize * (chunks * every + parts * columns) * width + 4 * every * (chunks + written),
            flops * (3 if itemsize == 4 else 1),
        ),
        "select_kernel": Work(every * (chunks * chunk * (4 + weight) + winners * 8 * (slots + 1) + 4 * chunks)),
        "mean_row_kernel": Work(
            _mean_rows(parts, rows, columns, width, weight, chunk, mean_tile) + 4 * every * winners, flops
        ),
    }


def pooling(images: int, width: int, cells: int, parts: int, itemsize: int, views: int = 3) -> Kernels:
    """Prototypes, attention and the power mean of exponent 3, forward and backward."""
    scores, rows = images * parts * (cells // parts), images * parts * width
    maps, striped = images * cells * width, scores * width
    forms, weights, tokens = itemsize * views * rows, 4 * views * scores, itemsize * parts * width
    queries = 4 * rows
    return {
        "gather_kernel": Work(
            itemsize * maps + tokens + 4 * scores + 2 * queries,
            2 * (2 * striped + 2 * maps),
        ),
        "attention_kernel": Work(
            itemsize * striped + queries + 2 * weights + forms,
            2 * 2 * views * striped,
        ),
        "attention_backward_kernel": Work(
            itemsize * striped + 3 * weights + forms + views * queries,
            2 * 3 * views * striped,
        ),
        "spread_kernel": Work(
            2 * itemsize * maps + tokens + 4 * scores + 2 * weights + forms + (2 + views) * queries + queries // parts,
            2 * ((4 + 2 * views) * striped + 2 * maps),
        ),
    }


def batch_norm(
    rows: int,
    width: int,
    itemsize: int,
    blocks: int,
    *,
    shortcut: bool = False,
    normed: bool = False,
    twice: bool = False,
) -> Kernels:
    """Statistics, result and gradients of a map of ``rows`` rows, of which ``blocks`` are summed apart.

    ``shortcut``: there is one without a norm; ``normed``: there is one with a norm.
    """
    map_, channels, partial, norms = itemsize * rows * width, 4 * width, 4 * blocks * width, 1 + normed
    return {
        "moments_kernel": Work(map_ + 2 * partial) * norms,
        "merge_kernel": Work(2 * partial + 2 * channels) * norms,
        "apply_kernel": Work((1 + norms + shortcut) * map_ + 4 * norms * channels),
        "sums_kernel": Work((1 + norms + 2 * shortcut + twice) * map_ + 4 * norms * channels + (1 + norms) * partial),
        "input_kernel": Work((1 + 2 * norms + (twice and not shortcut)) * map_ + (1 + 5 * norms) * channels),
    }


def sinkhorn(rows: int, columns: int, block: int, strip: int) -> Kernels:
    """A step that checks, of one problem: programs of ``block`` rows, then of ``strip`` columns."""
    blocks, cost, beta = _cdiv(rows, block), 4 * rows * columns, 4 * columns
    sums = 2 * blocks * beta
    return {
        "rows_kernel": Work(cost + 2 * beta + 2 * 4 * rows + sums + 4, fetched=2 * cost + blocks * 2 * beta + 4 * rows),
        "columns_kernel": Work(sums + 3 * beta + 4, fetched=sums + beta + 4 * _cdiv(columns, strip)),
    }


def jaccard(rows: int, entries: int, prefixes: int, pairs: int, candidates: int, left: int, compared: int) -> Kernels:
    """The near pairs of encodings with so many ``entries``, of which ``prefixes`` are in the index.

    Only the data tell how many there are of the rest: ``pairs`` of entries in which two prefixes share a column,
    ``candidates``, pairs of rows with such an entry, and those ``left`` to compare, with ``compared`` entries together.
    """
    of_rows = rows * (8 + 4 + 2 * 16 + 16) + 24 * prefixes + 12 * entries
    return {"pairs_kernel": Work(0, fetched=of_rows + 8 * (pairs + candidates) + 20 * left + 12 * compared)}


def _mean_rows(
    parts: int, rows: int, columns: int, width: int, itemsize: int, chunk: int, tile: Mapping[str, int]
) -> int:
    """Bytes of ``mean_row_kernel`` without those of its factors."""
    every, chunks = parts * rows, _cdiv(columns, chunk)
    read = _reached(columns, chunk, tile["K"])
    return itemsize * (every * read + parts * columns * width) + 4 * every * width * (2 * chunks - 1)


def _reached(columns: int, chunk: int, multiple: int) -> int:
    """Columns of all chunks, the last rounded up."""
    whole = columns // chunk * chunk
    return whole + min(chunk, _up(columns - whole, multiple))


def _cdiv(count: int, size: int) -> int:
    return -(-count // size)


def _up(count: int, multiple: int) -> int:
    return _cdiv(count, multiple) * multiple


def _knn_case(x: torch.Tensor) -> Kernels:
    from benchmarks.cases.knn import K
    from salcr.kernels.knn import sampling
    from salcr.kernels.launch import configuration

    tile = configuration("knn.products", x.device)
    return knn(len(x), *x.shape, LISTED * len(x), *sampling(len(x), K, tile["N"]), tile)


def _contrast_case(tf32: bool) -> Callable[..., Kernels]:
    def of(features: torch.Tensor, memory: torch.Tensor, targets: torch.Tensor) -> Kernels:
        from salcr.kernels.groups import Terms
        from salcr.kernels.products import chunk_columns, tiles

        (parts, rows, width), columns = features.shape, memory.shape[1]
        tile, chunk = tiles(Terms([features], [memory], tf32=tf32)), chunk_columns(features, columns)
        return contrast(parts, rows, columns, width, memory.dtype.itemsize, chunk, tile)

    return of


def _search_case(of_weights: int | None = None) -> Callable[..., Kernels]:
    def of(features: torch.Tensor, memory: torch.Tensor) -> Kernels:
        from benchmarks.cases.instance_memory import K
        from salcr.kernels.groups import Terms
        from salcr.kernels.instance_memory import chunk_widths
        from salcr.kernels.products import chunk_columns, tiles

        (parts, rows, width), columns = features.shape, memory.shape[1]
        terms, size, slots = Terms([features], [memory]), memory.dtype.itemsize, 1 << K.bit_length()
        (chunk,) = chunk_widths(terms, [chunk_columns(features, columns)])
        rounded = memory if of_weights is None else torch.empty_like(memory, dtype=torch.bfloat16, device="meta")
        both = tiles(terms, logits=True), tiles(Terms([features], [rounded]))
        return search(parts, rows, columns, width, size, chunk, slots, *both, of_weights=of_weights)

    return of


def _pooling_case(x: torch.Tensor, tokens: torch.Tensor) -> Kernels:
    return pooling(len(x), x.shape[1], x.shape[2] * x.shape[3], len(tokens), x.dtype.itemsize)


def _batch_norm_case(x: torch.Tensor, *others: torch.Tensor) -> Kernels:
    from salcr.kernels.batch_norm import Plan

    p = Plan(x)
    kind = dict(shortcut=len(others) == 3, normed=len(others) > 3, twice=True)
    return batch_norm(p.rows, p.width, x.dtype.itemsize, p.blocks, **kind)


def _sinkhorn_case(cost: torch.Tensor) -> Kernels:
    from salcr.kernels.launch import configuration

    block, strip = (configuration(f"sinkhorn.{name}", cost.device) for name in ("rows", "columns"))
    step = sinkhorn(*cost.shape[-2:], block["R"], strip["C"])
    return {name: work * SINKHORN_STEPS for name, work in step.items()}


OF_CASES: dict[str, Callable[..., Kernels]] = {
    "knn": _knn_case,
    "cluster_contrast": _contrast_case(tf32=False),
    "cluster_contrast-tf32": _contrast_case(tf32=True),
    "instance_search": _search_case(),
    "instance_search-bfloat16": _search_case(of_weights=2),
    "batch_norm_relu-bfloat16": _batch_norm_case,
    "batch_norm_relu-both-bfloat16": _batch_norm_case,
    "semantic_pool": _pooling_case,
    "semantic_pool-bfloat16": _pooling_case,
    "sinkhorn": _sinkhorn_case,
}
