"""From features to pseudo labels, how far two labellings agree, and which clusters of two sets of images look alike."""

from functools import partial

import torch
import torch.distributed as dist

from salcr import reference
from salcr.defaults import NEIGHBORS
from salcr.ops._checks import (
    check_all_lengths,
    check_indices,
    check_integer,
    check_number,
    check_positive,
    check_same,
    check_tensor,
    check_values,
    known_values,
)
from salcr.ops._dispatch import add_backend, check_impl, pick, share_backends
from salcr.ops._register import register
from salcr.ops._sharded import labels_of_shard
from salcr.ops.backends.eager import clustering as _eager
from salcr.ops.dbscan import dbscan
from salcr.ops.jaccard import Neighbors, check_encoding, detached, jaccard_graph


def cluster(
    features: torch.Tensor,
    *,
    eps: float,
    min_samples: int = 4,
    k1: int = NEIGHBORS,
    k2: int = 6,
    neighbors: Neighbors | None = None,
    impl: str = "auto",
    group: "dist.ProcessGroup | None" = None,
) -> torch.Tensor:
    """Pseudo labels of features: DBSCAN on the Jaccard distances of their k-reciprocal encodings.

    Equivalent eager expression::

        dbscan(jaccard_graph(features, k1=k1, k2=k2, max_distance=eps), eps=eps, min_samples=min_samples)

    Nothing N×N is held, and nothing leaves the device. Below ``eps`` 1 the memory beside the features is of order N.

    With a ``group`` every rank calls with its rows, in the order of ranks; equivalent, with ``all_rows`` for what
    torch.distributed would gather::

        cluster(all_rows(features), eps=eps, min_samples=min_samples, k1=k1, k2=k2)[of_this_rank]

    Labels are equal but where the order of neighbours hangs on rounding, see :func:`knn`. The search runs where the
    features are, what follows in C++ on the host (on a GPU's sums the last bit of a distance may differ from there).
    docs/scale.md says what it costs.

    Args:
        features: ``[N, D]``, float; normalised here.
        eps: largest distance of neighbours, positive; 0.6 for SYSU-MM01 and LLCM, 0.3 for RegDB.
        min_samples: points within ``eps`` that make a core point, itself counted.
        k1, k2, neighbors: as in :func:`jaccard_distance`.
        impl: backend, see :mod:`salcr.ops`; with a ``group`` that of the search.
        group: processes that hold a block of the rows each, of any sizes, none included; all of them make this call.
            ``neighbors`` are then those of the rank's rows, with indices among all rows. Beside a rank's own rows there
            are in memory the ranks and products of all (8 · k1 bytes an image) and pieces of the others' rows.

    Returns:
        ``[N]``, int64, on the device of ``features``: labels from 0 on, numbered as scikit-learn does; noise is -1.

    Raises:
        TypeError, ValueError: a wrong shape, dtype or option; NaN or Inf in a row (the message names the first).
            With a ``group``, on every rank what is wrong on one of them, rows counted over all; ranks whose D, dtype or
            options differ; a process outside the group; no C++ extension.

    Example:
        >>> angles = torch.tensor([0.00, 0.01, 0.02, 0.03, 1.00, 1.01, 1.02, 1.03])  # two people, four images of each
        >>> features = torch.stack([angles.cos(), angles.sin()], dim=1)
        >>> ops.cluster(features, eps=0.6, k1=4, k2=2).tolist()
        [0, 0, 0, 0, 1, 1, 1, 1]

    Source: docs/method.md, "Pseudo labels".
    """
    if group is not None:
        options = {"eps": eps, "min_samples": min_samples, "k1": k1, "k2": k2, "impl": impl}
        check = partial(_check, eps, min_samples, impl)
        return labels_of_shard(features, neighbors=neighbors, group=group, check=check, **options)
    _check(eps, min_samples, impl)
    check_encoding(features, k1, k2, neighbors, impl)
    return torch.ops.salcr.cluster(features.detach(), k1, k2, *detached(neighbors), float(eps), min_samples, impl)


def label_agreement(labels: torch.Tensor, other: torch.Tensor, *, impl: str = "auto") -> torch.Tensor:
    """How far each image's clusters in two labellings agree: intersection over union.

    Equivalent eager expression::

        def together(labels):  # [N, N]: noise is with itself alone
            return ((labels[:, None] == labels) & (labels >= 0)) | torch.eye(len(labels), dtype=torch.bool)

        (together(labels) & together(other)).sum(1) / (together(labels) | together(other)).sum(1)

    Numbers of clusters mean nothing: labellings of two epochs, two values of ``eps`` or two feature spaces are compared
    as they are. An image that is noise is a cluster of its own: noise in both it agrees fully, noise in one and in a
    cluster of n in the other by 1/n. Nothing N×N is held.

    Args:
        labels, other: ``[N]``, int64, of the same images; noise is -1.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[N]``, float32, from 1/N to 1, on the device of ``labels``.

    Raises:
        TypeError, ValueError: a wrong shape or dtype, other lengths or devices, a label below -1.

    Example:
        >>> loose, strict = torch.tensor([0, 0, 0, 1, 1, -1]), torch.tensor([1, 1, -1, 0, 0, -1])
        >>> [round(x, 2) for x in ops.label_agreement(loose, strict).tolist()]
        [0.67, 0.67, 0.33, 1.0, 1.0, 1.0]

    Source: docs/method.md, "Agreement of labels"; Self-paced Contrastive Learning (Ge et al., 2020), whose independence
    and compactness of clusters are this between two ``eps``.
    """
    for name, y in (("labels", labels), ("other", other)):
        check_tensor(name, y, ndim=1, floating=False)
        check_values(name, y)
    check_same("other", other, "labels", labels)
    if len(labels) != len(other):
        raise ValueError(f"other has {len(other)} entries, labels {len(labels)}")
    return torch.ops.salcr.label_agreement(labels, other, check_impl(impl))


def pair_votes(
    x: torch.Tensor,
    x_labels: torch.Tensor,
    y: torch.Tensor,
    y_labels: torch.Tensor,
    threshold: float,
    *,
    impl: str = "auto",
) -> torch.Tensor:
    """How many pairs of images of two clusters, one of each of two sets, are similar.

    Equivalent eager expression::

        similar = normalize(x, dim=1) @ normalize(y, dim=1).T >= threshold
        votes[a, b] = similar[x_labels == a][:, y_labels == b].sum()

    What associations by voting between modalities or cameras count. Divided by ``x_labels.bincount()[:, None] *
    y_labels.bincount()`` (of labels that are not noise) it is the share of all pairs. The products of one block of rows
    are held at a time.

    Args:
        x: ``[N, D]``, float; normalised here. Products are float32 at least.
        x_labels: ``[N]``, int64 in ``[-1, N)``; noise, -1, has no vote.
        y: ``[M, D]`` of the same dtype.
        y_labels: ``[M]``, int64 in ``[-1, M)``.
        threshold: smallest cosine of a pair that counts.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[x_labels.max() + 1, y_labels.max() + 1]``, int64.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device or label; a row with NaN or Inf or too long to square; a
            threshold that is no number or NaN.

    Example:
        >>> x, y = torch.eye(3), torch.tensor([[1.0, 0.2, 0.0], [0.9, 0.0, 0.1], [0.0, 0.0, 1.0]])
        >>> ops.pair_votes(x, torch.tensor([0, 1, 1]), y, torch.tensor([1, 1, 0]), 0.5).tolist()
        [[0, 2], [1, 0]]

    Source: docs/method.md, "Votes of pairs".
    """
    for name, rows in (("x", x), ("y", y)):
        check_tensor(name, rows, ndim=2)
        check_values(name, rows)
    check_same("y", y, "x", x)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"y has rows of width {y.shape[1]}, x of width {x.shape[1]}")
    for name, labels, rows in (("x_labels", x_labels, x), ("y_labels", y_labels, y)):
        check_tensor(name, labels, ndim=1, floating=False)
        check_values(name, labels)
        check_same(name, labels, "x", x, dtype=False)
        if len(labels) != len(rows):
            raise ValueError(f"{name} has {len(labels)} entries for {len(rows)} rows")
    check_number("threshold", threshold)
    if threshold != threshold:
        raise ValueError("threshold is NaN")
    return torch.ops.salcr.pair_votes(x.detach(), x_labels, y.detach(), y_labels, threshold, check_impl(impl))


def _cluster(features, k1, k2, values, indices, eps, min_samples, impl):
    neighbors = None if values is None else (values, indices)
    graph = jaccard_graph(features, k1=k1, k2=k2, max_distance=eps, neighbors=neighbors, impl=impl)
    of_graph = "reference" if impl == "eager" else impl  # it has one form in plain Python
    with known_values():  # of a graph made here
        return dbscan(graph, eps=eps, min_samples=min_samples, impl=of_graph)


def _fake_cluster(features, *others):
    return features.new_empty(features.shape[0], dtype=torch.int64)


def _label_agreement(labels, other, impl):
    for name, y in (("labels", labels), ("other", other)):
        if (low := int(y.min())) < -1:
            raise ValueError(f"{name} must be at least -1, got {low}")
    return pick("label_agreement", impl, labels)(labels, other)


def _fake_label_agreement(labels, other, impl):
    return labels.new_empty(labels.shape, dtype=torch.float32)


def _pair_votes(x, x_labels, y, y_labels, threshold, impl):
    check_all_lengths({"x": x, "y": y})
    for name, labels in (("x_labels", x_labels), ("y_labels", y_labels)):
        check_indices(name, labels, -1, len(labels))
    return pick("pair_votes", impl, x)(x, x_labels, y, y_labels, threshold)


def _fake_pair_votes(x, x_labels, y, y_labels, threshold, impl):
    clusters = (torch.library.get_ctx().new_dynamic_size(min=0) for _ in range(2))
    return x_labels.new_empty(tuple(clusters))


def _check(eps: float, min_samples: int, impl: str) -> None:
    check_positive("eps", eps)
    check_integer("min_samples", min_samples)
    check_impl(impl)


share_backends("cluster", "jaccard_graph")
register(
    "cluster",
    "(Tensor features, SymInt k1, SymInt k2, Tensor? values, Tensor? indices, float eps, SymInt min_samples, str impl) "
    "-> Tensor",
    _cluster,
    _fake_cluster,
)
add_backend("label_agreement", "eager", _eager.label_agreement)
add_backend("label_agreement", "reference", reference.label_agreement)
register(
    "label_agreement", "(Tensor labels, Tensor other, str impl) -> Tensor", _label_agreement, _fake_label_agreement
)
add_backend("pair_votes", "eager", _eager.pair_votes)
add_backend("pair_votes", "reference", reference.pair_votes)
register(
    "pair_votes",
    "(Tensor x, Tensor x_labels, Tensor y, Tensor y_labels, float threshold, str impl) -> Tensor",
    _pair_votes,
    _fake_pair_votes,
)
