"""Evaluation and re-ranking under the names that published code gives them."""

import numpy as np

from salcr import ops
from salcr.compat._arrays import Array, as_tensor, like
from salcr.ops.ranking import Integers

Figures = tuple[np.ndarray, float, float]


def eval_sysu(
    distmat: Array, q_pids: Integers, g_pids: Integers, q_camids: Integers, g_camids: Integers, max_rank: int = 20
) -> Figures:
    """SYSU-MM01: a camera-3 query ignores camera-2 images, the CMC counts identities.

    Args:
        distmat: ``[Q, G]``, float: distances, or similarities times -1.
        q_pids, g_pids, q_camids, g_camids: ``[Q]`` or ``[G]``, integers.
        max_rank: length of the CMC curve; where a ranking is shorter its last value is repeated.

    Returns:
        ``(cmc [max_rank], mAP, mINP)``, see :func:`salcr.ops.evaluate_ranking`.

    Raises:
        TypeError, ValueError: as that operator.
    """
    return _figures(distmat, q_pids, g_pids, q_camids, g_camids, protocol="sysu", max_rank=max_rank)


def eval_regdb(distmat: Array, q_pids: Integers, g_pids: Integers, max_rank: int = 20) -> Figures:
    """RegDB: nothing is ignored, the CMC counts images. Arguments and result as :func:`eval_sysu`."""
    return _figures(distmat, q_pids, g_pids, protocol="regdb", max_rank=max_rank)


def eval_llcm(
    distmat: Array, q_pids: Integers, g_pids: Integers, q_camids: Integers, g_camids: Integers, max_rank: int = 20
) -> Figures:
    """LLCM: ignores images of a query's identity from its camera, the CMC counts identities. As :func:`eval_sysu`."""
    return _figures(distmat, q_pids, g_pids, q_camids, g_camids, protocol="llcm", max_rank=max_rank)


def evaluate_rank(
    distmat: Array,
    q_pids: Integers,
    g_pids: Integers,
    q_camids: Integers,
    g_camids: Integers,
    max_rank: int = 50,
    use_metric_cuhk03: bool = False,
    use_cython: bool = True,
) -> tuple[np.ndarray, float]:
    """torchreid's: images of the query's identity from its camera are ignored.

    Args:
        distmat, q_pids, g_pids, q_camids, g_camids, max_rank: as in :func:`eval_sysu`.
        use_metric_cuhk03: the CMC is of galleries with one random image of each identity: its expected value, where
            torchreid averages ten draws, see :func:`salcr.ops.evaluate_ranking`. Else it counts images.
        use_cython: accepted, and without effect.

    Returns:
        ``(cmc [max_rank], mAP)``; the curve is cut to the gallery's size where that is smaller.

    Raises:
        TypeError, ValueError: as :func:`salcr.ops.evaluate_ranking`.
    """
    protocol = "cuhk03" if use_metric_cuhk03 else "market1501"
    curve, mean_precision, _ = _figures(
        distmat, q_pids, g_pids, q_camids, g_camids, protocol=protocol, max_rank=max_rank
    )
    return curve[: distmat.shape[1]], mean_precision


def re_ranking(
    q_g_dist: Array, q_q_dist: Array, g_g_dist: Array, k1: int = 20, k2: int = 6, lambda_value: float = 0.3
) -> Array:
    """k-reciprocal re-ranking of Euclidean distances, which are squared first.

    Some code passes squared distances. They are squared once more, here as there.

    Args:
        q_g_dist: ``[Q, G]``, float; of queries and gallery.
        q_q_dist, g_g_dist: ``[Q, Q]`` and ``[G, G]`` of the same kind.
        k1, k2, lambda_value: see :func:`salcr.ops.rerank_distances`.

    Returns:
        ``[Q, G]``, float32, an array where ``q_g_dist`` is one, else a tensor on its device.

    Raises:
        TypeError, ValueError: as :func:`salcr.ops.rerank_distances`.
    """
    given = (("q_g_dist", q_g_dist), ("q_q_dist", q_q_dist), ("g_g_dist", g_g_dist))
    distances = (as_tensor(name, x).float() for name, x in given)
    return like(ops.rerank_distances(*distances, k1=k1, k2=k2, lambda_value=lambda_value), q_g_dist)


def _figures(distmat: Array, *columns: Integers, protocol: str, max_rank: int) -> Figures:
    return tuple(ops.evaluate_ranking(as_tensor("distmat", distmat), *columns, protocol=protocol, max_rank=max_rank))
