"""Calls of every launcher, of the sizes and types of training, for the ahead-of-time lane: on the CPU, nothing runs."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch

HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64


class Call(NamedTuple):
    """A launcher's call. ``everywhere``: compiled for every architecture, else for sm_90 alone."""

    run: Callable[[], object]
    everywhere: bool = True


def zeros(*shape, dtype=SINGLE):
    """Made at once, however many: NumPy's take their memory when it is first written, which nothing does here."""
    return torch.from_numpy(np.zeros((*shape, dtype.itemsize), np.uint8)).view(dtype).squeeze(-1)


def rows(dtype, width=2048, parts=2, count=300, columns=5000, of_features=None):
    memory = zeros(parts, columns, width, dtype=dtype)
    return zeros(parts, count, width, dtype=of_features or dtype), memory


def cluster_contrast(dtype, reduction="mean", soft=False, tf32=False, **shape):
    from salcr.kernels.cluster_memory import contrast_backward, contrast_forward

    features, memory = rows(dtype, **shape)
    targets = zeros(*features.shape[:2], 1, dtype=torch.int64)
    options = dict(temperature=0.05, reduction=reduction, tf32=tf32)
    if soft:
        options |= dict(weights=features[..., 0], soft=features.new_zeros(*features.shape[:2], memory.shape[1]))
    losses, lse = contrast_forward([features], [memory], [targets], **options)
    contrast_backward(losses, [features], [memory], [targets], lse, **options)


def contrasts(dtype, of_features=None):
    """A training step's: global features, and part features of either modality, each with two memories."""
    from salcr.kernels.cluster_memory import contrast_backward, contrast_forward

    sizes = (1, 432), (3, 864), (3, 432)
    features = [zeros(*size, 2048, dtype=of_features or dtype) for size in sizes]
    memories = [zeros(len(x), count, 2048, dtype=dtype) for count in (400, 390) for x in features]
    targets = [zeros(*x.shape[:2], 1, dtype=torch.int64) for x in features * 2]
    losses, lse = contrast_forward(features, memories, targets, temperature=0.05)
    contrast_backward(losses, features, memories, targets, lse, temperature=0.05)


def searches(dtype, of_mean_rows=None):
    """A training step's: global and part features, each with two memories, and the contrasts with the neighbours."""
    from salcr.kernels.cluster_memory import contrast_backward, contrast_forward
    from salcr.kernels.instance_memory import instance_search

    features = [zeros(*size, 2048, dtype=dtype) for size in ((1, 432), (3, 1296))]
    memories = [zeros(len(x), count, 2048, dtype=dtype) for count in (2300, 1100) for x in features]
    rounded = of_mean_rows and [memory.to(of_mean_rows) for memory in memories]
    _, lse, mean_row = instance_search(features, memories, 30, temperature=0.05, mean=True, rounded=rounded)
    sets = [zeros(*x.shape[:2], 30, dtype=torch.int64) for x in features * 2]
    losses, _ = contrast_forward(features, memories, sets, temperature=0.05, lse=lse)
    contrast_backward(losses, features, memories, sets, lse, temperature=0.05, mean_row=mean_row)


def instance_memory(dtype, k=30, tf32=False, **shape):
    """The search in chunks, and the contrast with its neighbours, which has log-sum-exp and mean row."""
    from salcr.kernels import instance_memory
    from salcr.kernels.cluster_memory import contrast_backward, contrast_forward

    features, memory = rows(dtype, **shape)
    with mock.patch.object(instance_memory, "SCRATCH", 0):
        options = dict(temperature=0.05, mean=True, tf32=tf32)
        found, lse, mean_row = instance_memory.instance_search([features], [memory], k, **options)
    losses, _ = contrast_forward([features], [memory], [found], temperature=0.05, lse=lse)
    contrast_backward(losses, [features], [memory], [found], lse, temperature=0.05, mean_row=mean_row)


def set_contrast(dtype, wide=30, **shape):
    from salcr.kernels.cluster_memory import contrast_backward, contrast_forward

    features, memory = rows(dtype, **shape)
    positives = zeros(*features.shape[:2], wide, dtype=torch.int64)
    losses, lse = contrast_forward([features], [memory], [positives], temperature=0.05)
    contrast_backward(losses, [features], [memory], [positives], lse, temperature=0.05)


def update(dtype, width=2048, parts=2, hardest=False):
    from salcr.kernels.cluster_memory_update import update_cluster_memory

    features, memory = rows(dtype, width, parts)
    targets, order = zeros(parts, 300, dtype=torch.int64), torch.arange(300)
    update_cluster_memory(memory, features, targets, order, momentum=0.1, hardest=hardest)


def updates(width=2048):
    """Memories of a step of stage two, and one whose sizes are 1."""
    from salcr.kernels.cluster_memory_update import update_cluster_memories

    shapes = [(1, 400, 432), (1, 380, 432), *[(3, 400, 864), (3, 380, 864), (3, 400, 432)], (1, 1, 1)]
    update_cluster_memories(
        [zeros(parts, classes, width) for parts, classes, _ in shapes],
        [zeros(parts, samples, width) for parts, _, samples in shapes],
        [zeros(parts, samples, dtype=torch.int64) for parts, _, samples in shapes],
        [torch.arange(samples) for _, _, samples in shapes],
        momentum=0.1,
    )


def sets(*widths):
    from salcr.kernels.index_sets import intersect_sets, unite_sets

    several = [zeros(300, width, dtype=torch.int64) for width in widths]
    intersect_sets(*several), unite_sets(*several)


def knn(size, width, k, *, queries=None, near=False):
    from salcr.kernels.knn import search

    y = zeros(size, width)
    x = y if queries is None else zeros(queries, width)
    scores, indices = zeros(len(x), k), zeros(len(x), k, dtype=torch.int64)
    own = queries is None
    search(x, y, k - own, scores[:, own:], indices[:, own:], exclude_self=own, sqeuclidean=near)


def labels(k1, half, k2=6, width=2048, count=600, scaled=False):
    from salcr.kernels import jaccard, jaccard_encodings

    ranks = zeros(count, k1, dtype=torch.int32)
    options = dict(half=half, k2=k2, factors=zeros(count) if scaled else None)
    encodings = jaccard_encodings.encode(zeros(count, width), ranks, zeros(count, k1), **options)
    jaccard.jaccard_graph(encodings, 0.6)
    jaccard.jaccard_distance(encodings)


def dbscan(dtype, *, dense):
    from salcr.kernels.dbscan import dbscan

    pointers = None if dense else torch.arange(601)
    distances = zeros(600, 600, dtype=dtype) if dense else zeros(600, dtype=dtype)
    dbscan(distances, pointers, pointers, eps=0.6, min_samples=4)


def centroids(dtype, width=2048):
    from salcr.kernels.centroids import cluster_centroids

    cluster_centroids(zeros(600, width, dtype=dtype), torch.arange(600) % 20, 20)


def sinkhorn(*shape):
    from salcr.kernels.sinkhorn import sinkhorn

    sinkhorn(zeros(*shape), lam=5.0, tol=0.1, max_iter=2, check_every=10)


def augment(dtype, *, draws=True, chain=0, size=(288, 144)):
    from salcr.kernels.augmentation import augment

    tables = (zeros(12, 17), zeros(12, dtype=torch.int64)) if draws else (None, None)
    augment(zeros(6, *size, 3, dtype=torch.uint8), *tables, zeros(3, chain, 7) if chain else None, dtype)


def images(dtype, count=12, width=2048, size=(41, 4)):
    """Fifty-four cells a stripe of three, two cells left over."""
    return zeros(count, width, *size, dtype=dtype).to(memory_format=torch.channels_last)


def pooling(dtype, parts=3, views=3, **shape):
    """A training step's: prototypes, attention of three views and the power mean, forward and backward."""
    from salcr.kernels.pooling import pool_forward
    from salcr.kernels.pooling_backward import pool_backward

    x = images(dtype, **shape)
    tokens = zeros(parts, x.shape[1], dtype=dtype)
    options = dict(tokens=tokens, power=3.0, views=views)
    means, scores, queries, weights, forms = pool_forward(x, parts, attend=True, **options)
    back = dict(scores=scores, queries=queries, weights=weights, form_gradients=forms, mean_gradient=means)
    pool_backward(x, parts, **back, **options)


def batch_norm(dtype, shortcut=False, normed=False, twice=False, given=False, width=256):
    from salcr.kernels.batch_norm import batch_norm_relu, batch_norm_relu_backward

    x = zeros(432, 72, 36, width, dtype=dtype).permute(0, 3, 1, 2)
    maps = [x, x] if normed else [x]
    parameters = [zeros(width) for _ in range(2 * len(maps))]
    y, *statistics = batch_norm_relu(maps, parameters, x if shortcut else None, parameters if given else [], 1e-5)
    options = dict(given=given, shortcut=shortcut)
    batch_norm_relu_backward(y, y if twice else None, maps, parameters, statistics, y, 1e-5, **options)


def power_mean(power):
    from salcr.kernels.pooling import pool_forward
    from salcr.kernels.pooling_backward import pool_backward

    x = images(SINGLE)
    means = pool_forward(x, power=power)[0]
    pool_backward(x, mean_gradient=means, power=power)


def prototypes():
    from salcr.kernels.pooling import pool_forward
    from salcr.kernels.pooling_backward import pool_backward

    x, tokens = images(SINGLE), zeros(3, 2048)
    _, scores, queries, _, _ = pool_forward(x, 3, tokens=tokens)
    pool_backward(x, 3, tokens=tokens, scores=scores, queries=queries, query_gradient=queries)


def attention(parts=3, **shape):
    from salcr.kernels.pooling import pool_forward
    from salcr.kernels.pooling_backward import pool_backward

    x = images(SINGLE, **shape)
    _, _, queries, weights, forms = pool_forward(x, parts, queries=x.new_zeros(len(x), parts, x.shape[1]), attend=True)
    pool_backward(x, parts, queries=queries, weights=weights, form_gradients=forms)


CALLS = {
    "cluster_contrast-half": Call(partial(cluster_contrast, HALF)),
    "cluster_contrast-tf32": Call(partial(cluster_contrast, SINGLE, tf32=True)),
    "cluster_contrast-tf32x3": Call(partial(cluster_contrast, SINGLE)),
    "cluster_contrast-none": Call(partial(cluster_contrast, HALF, "none"), everywhere=False),
    "cluster_contrast-soft": Call(partial(cluster_contrast, SINGLE, soft=True)),
    "cluster_contrast-soft-half": Call(partial(cluster_contrast, HALF, soft=True), everywhere=False),
    "cluster_contrast-soft-rounded": Call(
        partial(cluster_contrast, HALF, soft=True, of_features=SINGLE), everywhere=False
    ),
    "cluster_contrast-odd": Call(partial(cluster_contrast, HALF, width=2047, parts=1), everywhere=False),
    "cluster_contrast-one": Call(partial(cluster_contrast, SINGLE, count=1, columns=1), everywhere=False),
    "contrasts-half": Call(partial(contrasts, HALF), everywhere=False),
    "contrasts-rounded": Call(partial(contrasts, HALF, of_features=SINGLE), everywhere=False),
    "contrasts-tf32x3": Call(partial(contrasts, SINGLE), everywhere=False),
    "searches-half": Call(partial(searches, HALF), everywhere=False),
    "searches-rounded": Call(partial(searches, SINGLE, of_mean_rows=HALF), everywhere=False),
    "searches-tf32x3": Call(partial(searches, SINGLE), everywhere=False),
    "instance_memory-half": Call(partial(instance_memory, HALF)),
    "instance_memory-tf32": Call(partial(instance_memory, SINGLE, tf32=True)),
    "instance_memory-wide": Call(partial(instance_memory, HALF, k=600), everywhere=False),
    "instance_memory-odd": Call(partial(instance_memory, SINGLE, tf32=True, width=2047, parts=1), everywhere=False),
    "set_contrast-float16": Call(partial(set_contrast, torch.float16), everywhere=False),
    "set_contrast-rounded": Call(partial(set_contrast, HALF, of_features=SINGLE), everywhere=False),
    "set_contrast-one": Call(partial(set_contrast, SINGLE, 1, count=1, parts=1), everywhere=False),
    "update-single": Call(partial(update, SINGLE)),
    "update-hardest": Call(partial(update, SINGLE, hardest=True), everywhere=False),
    "update-wide": Call(partial(update, SINGLE, width=8192), everywhere=False),
    "updates": Call(updates),
    "updates-odd": Call(partial(updates, width=2047), everywhere=False),
    "sets": Call(partial(sets, 30, 30, 30)),
    "sets-wide": Call(partial(sets, 300, 1), everywhere=False),
    "knn": Call(partial(knn, 22_258, 1024, 30)),
    "knn-distances": Call(partial(knn, 22_258, 1024, 30, near=True), everywhere=False),
    "knn-million": Call(partial(knn, 999_998, 16, 30, queries=200), everywhere=False),
    "knn-many": Call(partial(knn, 5000, 100, 1000, queries=1), everywhere=False),
    "labels": Call(partial(labels, 30, 16)),
    "labels-many": Call(partial(labels, 300, 151), everywhere=False),
    "labels-scaled": Call(partial(labels, 31, 16, scaled=True), everywhere=False),
    "labels-one": Call(partial(labels, 1, 1, k2=1, width=100), everywhere=False),
    "dbscan-graph": Call(partial(dbscan, SINGLE, dense=False)),
    "dbscan-dense": Call(partial(dbscan, SINGLE, dense=True), everywhere=False),
    "dbscan-double": Call(partial(dbscan, DOUBLE, dense=True), everywhere=False),
    "centroids": Call(partial(centroids, SINGLE)),
    "centroids-half": Call(partial(centroids, torch.float16, width=100), everywhere=False),
    "centroids-double": Call(partial(centroids, DOUBLE), everywhere=False),
    "sinkhorn": Call(partial(sinkhorn, 1, 11_909, 600)),
    "sinkhorn-batch": Call(partial(sinkhorn, 100_000, 1, 7), everywhere=False),
    "augmentation-stage-one": Call(partial(augment, SINGLE, chain=32)),
    "augmentation-stage-two": Call(partial(augment, HALF), everywhere=False),
    "augmentation-one-pixel": Call(partial(augment, SINGLE, chain=32, size=(1, 1)), everywhere=False),
    "augmentation-features": Call(partial(augment, HALF, draws=False), everywhere=False),
    "batch_norm-half": Call(partial(batch_norm, HALF)),
    "batch_norm-shortcut": Call(partial(batch_norm, HALF, shortcut=True, twice=True)),
    "batch_norm-normed": Call(partial(batch_norm, HALF, normed=True, twice=True)),
    "batch_norm-single": Call(partial(batch_norm, SINGLE, shortcut=True), everywhere=False),
    "batch_norm-normed-single": Call(partial(batch_norm, SINGLE, normed=True, twice=True), everywhere=False),
    "batch_norm-given": Call(partial(batch_norm, HALF, twice=True, given=True, width=64), everywhere=False),
    "batch_norm-odd": Call(partial(batch_norm, SINGLE, width=7), everywhere=False),
    "pooling-half": Call(partial(pooling, HALF)),
    "pooling-single": Call(partial(pooling, SINGLE)),
    "pooling-mean": Call(partial(power_mean, 3.0), everywhere=False),
    "pooling-power": Call(partial(power_mean, 4.5), everywhere=False),
    "pooling-prototypes": Call(prototypes, everywhere=False),
    "pooling-attention": Call(attention, everywhere=False),
    "pooling-one-part": Call(partial(attention, 1, width=64, size=(32, 32)), everywhere=False),
}
