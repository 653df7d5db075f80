"""What kernels load, store and multiply, counted by the interpreter; run by test_interpreter.py."""

import contextlib
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import triton
from triton.runtime import interpreter

from benchmarks import work
from salcr.kernels import instance_memory, jaccard, jaccard_encodings, launch, products
from salcr.kernels import knn as search
from salcr.kernels.batch_norm import Plan, batch_norm_relu, batch_norm_relu_backward
from salcr.kernels.cluster_memory import contrast_backward, contrast_forward
from salcr.kernels.pooling import pool_forward
from salcr.kernels.pooling_backward import pool_backward
from salcr.kernels.sinkhorn import sinkhorn
from tests.ops.label_problems import images, searched, sizes

ON_CPU = torch.device("cpu")


@contextlib.contextmanager
def counted():
    """Work by the name of the kernel, which is filled in as kernels run; atomics are left out."""
    found, launched = {}, Counter()
    addresses = {"load": [], "store": []}
    builder, run = interpreter.InterpreterBuilder, interpreter.GridExecutor.__call__
    load, store, dot, multiply = (
        getattr(builder, name) for name in ("create_masked_load", "create_masked_store", "create_dot", "create_fmul")
    )

    def remember(kind, pointers, mask):
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        places = np.broadcast_to(pointers.data, mask.data.shape)[mask.data.astype(bool)]
        addresses[kind].append((np.atleast_1d(places), size))

    def masked_load(self, pointers, mask, *rest):
        remember("load", pointers, mask)
        return load(self, pointers, mask, *rest)

    def masked_store(self, pointers, value, mask, *rest):
        remember("store", pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def create_dot(self, a, b, *rest):
        launched["flops"] += 2 * a.data.shape[0] * a.data.shape[1] * b.data.shape[1]
        return dot(self, a, b, *rest)

    def create_fmul(self, a, b):
        if a.data.ndim == 2:
            launched["products"] += 2 * a.data.size
        return multiply(self, a, b)

    def execute(self, *arguments, **options):
        launched.clear(), addresses["load"].clear(), addresses["store"].clear()
        run(self, *arguments, **options)
        moved = sum(size * len(np.unique(at)) for kind in addresses.values() for at, size in joined(kind))
        fetched = sum(size * len(at) for at, size in addresses["load"])
        this = work.Work(moved, launched["flops"] or launched["products"], fetched)
        before = found.get(self.fn.__name__, (0, 0, 0))
        found[self.fn.__name__] = work.Work(*map(sum, zip(this, before, strict=True)))

    def joined(kind):
        for size in {size for _, size in kind}:
            yield np.concatenate([at for at, other in kind if other == size]), size

    patches = dict(create_masked_load=masked_load, create_masked_store=masked_store)
    with (
        mock.patch.multiple(builder, create_dot=create_dot, create_fmul=create_fmul, **patches),
        mock.patch.object(interpreter.GridExecutor, "__call__", execute),
    ):
        yield found


def check(found, expected):
    for kernel, foretold in expected.items():
        got = found[kernel]
        assert foretold == got._replace(
            bytes=got.bytes if foretold.bytes else 0,
            fetched=got.fetched if foretold.fetched else 0,
            flops=got.flops if foretold.flops else 0,
        ), kernel


def test_knn():
    (queries, size, width, k), tile = (32, 64, 32, 3), launch.configuration("knn.products", ON_CPU)
    generator = torch.Generator().manual_seed(0)
    x, y = (F.normalize(torch.randn(n, width, generator=generator), dim=1) for n in (queries, size))
    scores, indices = torch.empty(queries, k), torch.empty(queries, k, dtype=torch.int64)
    with counted() as found:
        search.search(x, y, k, scores, indices, exclude_self=False, sqeuclidean=False)
    sampled = search.sampling(size, k, tile["N"])
    entries = found["collect_kernel"].bytes
    nothing = work.knn(queries, size, width, 0, *sampled, tile)["collect_kernel"].bytes
    entries = (entries - nothing) // 8
    assert queries * k <= entries <= queries * size
    check(found, work.knn(queries, size, width, entries, *sampled, tile))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_contrast_and_search(dtype):
    """In two chunks, of which the second is a whole number of tiles and not full."""
    parts, rows, columns, width, k = 2, 16, 96, 32, 3
    chunk, size = products.INTERPRETED_CHUNK, dtype.itemsize
    features, memory = torch.randn(parts, rows, width).to(dtype), torch.randn(parts, columns, width).to(dtype)
    targets = torch.arange(parts * rows).view(parts, rows, 1)
    tile = launch.configuration("products.half" if size == 2 else "products.tf32x3", ON_CPU)
    shape = parts, rows, columns, width, size, chunk
    with counted() as found:
        losses, lse = contrast_forward([features], [memory], [targets], temperature=0.1)
        contrast_backward(losses, [features], [memory], [targets], lse, temperature=0.1)
    check(found, work.contrast(*shape, tile))
    with mock.patch.object(instance_memory, "SCRATCH", 0), counted() as found:
        instance_memory.instance_search([features], [memory], k, temperature=0.1, mean=True)
    logits = launch.configuration("products.half" if size == 2 else "products.float16x3", ON_CPU)
    check(found, work.search(*shape, triton.next_power_of_2(k + 1), logits, tile))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pooling(dtype):
    images, width, parts = 6, 16, 2
    x = torch.randn(images, width, 16, 1).to(dtype, memory_format=torch.channels_last)
    options = dict(tokens=torch.randn(parts, width).to(dtype), power=3.0, views=3)
    with counted() as found:
        means, scores, queries, weights, forms = pool_forward(x, parts, attend=True, **options)
        back = dict(scores=scores, queries=queries, weights=weights, form_gradients=forms, mean_gradient=means)
        pool_backward(x, parts, **back, **options)
    check(found, work.pooling(images, width, 16, parts, dtype.itemsize))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("shortcut", "normed"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("twice", [False, True])
def test_batch_norm(dtype, shortcut, normed, twice):
    maps = torch.randn(2 if normed else 1, 2, 9, 4, 32).to(dtype).movedim(-1, 2).unbind()
    parameters, x = [*torch.randn(2 * len(maps), 32)], maps[0]
    with counted() as found:
        y, *statistics = batch_norm_relu(maps, parameters, x.clone() if shortcut else None, [], 1e-5)
        gradients, options = (y.clone(), y.clone() if twice else None), dict(given=False, shortcut=shortcut)
        batch_norm_relu_backward(*gradients, maps, parameters, statistics, y, 1e-5, **options)
    kind = dict(shortcut=shortcut, normed=normed, twice=twice)
    check(found, work.batch_norm(72, 32, dtype.itemsize, Plan(x).blocks, **kind))


def test_sinkhorn():
    rows, columns = 70, 130
    with counted() as found:
        sinkhorn(torch.rand(1, rows, columns), lam=5.0, tol=0.1, max_iter=1, check_every=10)
    block, strip = (launch.configuration(f"sinkhorn.{name}", ON_CPU) for name in ("rows", "columns"))
    check(found, work.sinkhorn(rows, columns, block["R"], strip["C"]))


def test_jaccard(generator):
    """The pairs of entries that the inverted index of prefixes leaves, counted densely."""
    rows, max_distance, found = 24, 0.6, searched(images(generator, "hubs", 24), 6)
    encodings = jaccard_encodings.encode(
        found[0], found[2].int(), found[1].contiguous(), factors=None, **sizes(found, 2)
    )
    with counted() as work_of:
        jaccard.jaccard_graph(encodings, max_distance)
    least = 2 * (1 - max_distance) / (2 - max_distance) - jaccard.SLACK
    index, _ = jaccard._index(encodings, jaccard.PREFIX_SHARE * least)
    row = torch.arange(rows).repeat_interleave(index.prefixes.long())
    place = torch.cat([torch.arange(n) for n in index.prefixes]) + encodings.pointers[row]
    values = torch.zeros(rows, rows)
    values[row, encodings.columns[place].long()] = encodings.values[place]
    shared = torch.minimum(values[:, None], values)
    left = shared.sum(2) >= (1 - jaccard.PREFIX_SHARE) * least - jaccard.SUM_SLACK
    left &= (shared > 0).any(2)
    pairs, candidates = (int(x.sum()) for x in (shared > 0, (shared > 0).any(2)))
    assert 0 < left.sum() <= candidates < pairs
    entries = encodings.pointers.diff()
    numbers = len(row), pairs, candidates, int(left.sum()), int((left * entries).sum())
    check(work_of, work.jaccard(rows, int(entries.sum()), *numbers))
