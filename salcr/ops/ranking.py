"""Retrieval metrics, by protocol."""

from collections.abc import Sequence

import numpy as np
import torch

from salcr import reference
from salcr.ops._checks import INT64_MAX, check_choice, check_integer, check_tensor, check_values
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._register import untraced
from salcr.reference.ranking import RankingResult
from salcr.reference.ranking import is_ranked as is_ranked  # for who shows a ranking

LONGEST_CURVE = 2**20
Integers = torch.Tensor | np.ndarray | Sequence[int]
PROTOCOLS = ("sysu", "regdb", "llcm", "market1501", "cuhk03")


@untraced
def evaluate_ranking(
    distances: torch.Tensor | np.ndarray,
    query_ids: Integers,
    gallery_ids: Integers,
    query_cams: Integers | None = None,
    gallery_cams: Integers | None = None,
    *,
    protocol: str = "sysu",
    max_rank: int = 20,
    impl: str = "auto",
) -> RankingResult:
    """Cumulative matching characteristic, mAP and mINP of a gallery ranked by distance for every query.

    Equivalent eager expression, for one query::

        order = distances[q].argsort(stable=True)                   # equal distances by gallery index
        order = order[~ignored(q, order)]
        ranks = flatnonzero(gallery_ids[order] == query_ids[q]) + 1
        listed = unique_in_order(gallery_ids[order])                # "regdb", "market1501": gallery_ids[order]
        cmc = arange(max_rank) >= flatnonzero(listed == query_ids[q])[0]
        ap = mean(arange(1, len(ranks) + 1) / ranks)
        inp = len(ranks) / ranks[-1]
        precision = [(ranks <= k).sum() / k for k in range(1, max_rank + 1)]

    Protocols: ``"sysu"`` ignores all camera-2 images for a camera-3 query; ``"llcm"``, ``"market1501"`` and
    ``"cuhk03"`` ignore images of the query's identity from the query's camera; ``"regdb"`` ignores none. ``"sysu"`` and
    ``"llcm"`` count identities in the CMC (the ranking reduced to each identity's first image), ``"regdb"`` and
    ``"market1501"`` count images. The CMC of ``"cuhk03"`` is of galleries with one random image of each identity: its
    expected value, where other code averages some draws. A query without a match left is in no mean. A curve longer
    than its ranking repeats its last value; precision at more images than there are counts the absent ones as wrong.

    Args:
        distances: ``[Q, G]``, floating; tensors on any device are brought to the CPU.
        query_ids, gallery_ids: ``[Q]`` and ``[G]``, integers, as tensors, arrays or lists.
        query_cams, gallery_cams: ``[Q]`` and ``[G]``, likewise; not used by ``"regdb"``, needed by the others.
        protocol: ``"sysu"``, ``"regdb"``, ``"llcm"``, ``"market1501"`` or ``"cuhk03"``.
        max_rank: length of the CMC curve and of the precisions, up to 2**20.
        impl: backend, see :mod:`salcr.ops`; ``"numba"`` is compiled at the first call and kept on disk.

    Returns:
        A :class:`RankingResult`, of which ``cmc, mAP, mINP`` can be unpacked.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, protocol or ``max_rank``, identities or cameras beyond int64,
            missing cameras, NaN among the distances, or no query with a match.

    Example:
        >>> distances = torch.tensor([[0.1, 0.5, 0.3], [0.9, 0.2, 0.4]])
        >>> query_ids, gallery_ids = torch.tensor([7, 8]), torch.tensor([7, 7, 8])
        >>> result = ops.evaluate_ranking(distances, query_ids, gallery_ids, protocol="regdb", max_rank=3)
        >>> result.cmc.tolist(), round(result.mAP, 4), result.query_ap.round(4).tolist()
        ([0.5, 1.0, 1.0], 0.6667, [0.8333, 0.5])

    Source: docs/method.md, "Ranking metrics"; of CUHK03 Li et al. (CVPR 2014), of Market-1501 Zheng et al. (ICCV 2015).
    """
    if isinstance(distances, np.ndarray):
        if distances.dtype.kind != "f":
            raise TypeError(f"distances must be floating point, got {distances.dtype}")
        dtype = np.float32 if distances.itemsize < 8 else np.float64  # in this machine's order of bytes
        distances = torch.from_numpy(np.require(distances, dtype, ["C", "W"]))  # torch warns of read-only arrays
    check_tensor("distances", distances, ndim=2)
    check_values("distances", distances)
    distances = distances.detach().cpu().resolve_neg()
    if distances.dtype not in (torch.float32, torch.float64):
        distances = distances.float()
    check_choice("protocol", protocol, PROTOCOLS)
    check_integer("max_rank", max_rank, 1, LONGEST_CURVE)
    impl = check_impl(impl)
    queries, images = distances.shape
    ids = _integers("query_ids", query_ids, queries), _integers("gallery_ids", gallery_ids, images)
    cams = None, None
    if protocol != "regdb":
        cams = _integers("query_cams", query_cams, queries), _integers("gallery_cams", gallery_cams, images)
    function = pick("evaluate_ranking", impl, distances)
    distances = distances.contiguous().numpy()
    bad = np.isnan(distances).any(1)
    if bad.any():
        raise ValueError(f"distances has NaN, first in row {bad.argmax()}")
    return function(distances, *ids, *cams, protocol=protocol, max_rank=max_rank)


def _integers(name: str, x, length: int) -> np.ndarray:
    if x is None:
        raise ValueError(f"{name} is None: without cameras pass protocol='regdb', all others need them")
    if isinstance(x, torch.Tensor):
        check_values(name, x)
        if x.layout != torch.strided:
            raise TypeError(f"{name} must be dense, got {x.layout}")
        if x.is_floating_point():
            raise TypeError(f"{name} must be integers, got {x.dtype}")
        x = x.numpy(force=True)
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} is no array: {error}") from None
    if x.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {x.dtype}")
    if x.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},) to fit distances, got {x.shape}")
    if x.dtype == np.uint64 and x.max() > INT64_MAX:
        raise ValueError(f"{name} must be below 2**63, got {x.max()}")
    return np.require(x, np.int64, ["C", "W"])  # numba compiles anew, for seconds, for each layout that it meets


def _numba(*arguments, **options) -> RankingResult:
    from salcr.ops.backends.numba import ranking  # compiles

    return ranking.evaluate_ranking(*arguments, **options)


add_backend("evaluate_ranking", "numba", _numba)
add_backend("evaluate_ranking", "reference", reference.evaluate_ranking)
