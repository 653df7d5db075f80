"""Evaluation as published implementations run it: a baseline of benchmarks, not for use. Written from the paper.

Every trial is ranked query by query in NumPy; :func:`salcr.reference.evaluate_ranking` is that loop.
"""

from collections.abc import Sequence

import numpy as np

from salcr.reference.ranking import evaluate_ranking


def evaluate_trials(
    features: np.ndarray,
    ids: np.ndarray,
    cams: np.ndarray,
    trials: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    protocol: str,
    max_rank: int = 20,
) -> tuple[np.ndarray, float, float]:
    """CMC curve, mAP and mINP, means over ``trials``, each with the query and gallery rows of the unit ``features``."""
    results = []
    for query, gallery in trials:
        distances = 2 - 2 * features[query] @ features[gallery].T
        columns = ids[query], ids[gallery], cams[query], cams[gallery]
        results.append(evaluate_ranking(distances, *columns, protocol=protocol, max_rank=max_rank))
    means = (np.mean([getattr(result, name) for result in results], axis=0) for name in ("cmc", "mAP", "mINP"))
    cmc, mean_ap, mean_inp = means
    return cmc, float(mean_ap), float(mean_inp)
