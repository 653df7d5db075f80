"""Re-ranking in the forms that published implementations use: the baseline of benchmarks, not for use.

All pairs of queries and gallery images in dense arrays, image after image in Python. Written from the papers.
"""

import numpy as np

from salcr.reference.published.jaccard import encode, jaccard_rows


def rerank_distances(
    query_gallery: np.ndarray,
    query_query: np.ndarray,
    gallery_gallery: np.ndarray,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> np.ndarray:
    """As :func:`salcr.ops.rerank_distances` with ``power`` 2, on arrays."""
    queries = len(query_gallery)
    both = np.block([[query_query, query_gallery], [query_gallery.T, gallery_gallery]]).astype(np.float32) ** 2
    distances = (both / both.max(axis=0)).T
    itself = np.eye(len(distances), dtype=bool)
    ranks = np.argsort(np.where(itself, -np.inf, distances), axis=1, kind="stable")
    encodings = encode(ranks, k1, k2, lambda i, expanded: distances[i, expanded], distances.dtype)
    jaccard = jaccard_rows(encodings, queries)
    return (jaccard * (1 - lambda_value) + distances[:queries] * lambda_value)[:, queries:]


def rerank_gnn(query: np.ndarray, gallery: np.ndarray, *, k1: int = 26, k2: int = 7) -> np.ndarray:
    """As :func:`salcr.ops.rerank_gnn` on unit rows, with ``power`` 2."""
    features = np.concatenate([query, gallery])
    similarity = features @ features.T
    ranks = np.argsort(-similarity, axis=1, kind="stable")[:, :k1]
    adjacency = np.zeros_like(similarity)
    for i, near in enumerate(ranks):
        adjacency[i, near] = 1
    rows = (adjacency + adjacency.T) / 2
    for _ in range(2):
        heard = np.empty_like(rows)
        for i, near in enumerate(ranks[:, :k2]):
            heard[i] = similarity[i, near] ** 2 @ rows[near]
        rows = heard / np.linalg.norm(heard, axis=1, keepdims=True)
    return 1 - rows[: len(query)] @ rows[len(query) :].T
