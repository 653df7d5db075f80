"""The kernels from neighbours to labels, compiled for every architecture as the launchers call them."""

import importlib

import pytest

from tests.kernels.lanes import ARCHITECTURES, SHARED_LIMIT, compile_for

pytest.importorskip("triton")

F, D, H, I64, I32, N, SCALAR = "*fp32", "*fp64", "*fp16", "*i64", "*i32", "i32", "fp32"
WARP, LOOP = dict(num_warps=1), dict(num_warps=1, num_stages=1)
ROWS = dict(pointers=I64, columns=I32, values=F)


def encoding_cases():
    for k, half in ((30, 16), (300, 151), (1, 1)):
        ones = dict(k=1, half=1) if k == 1 else {}  # a launch makes constants of ones
        warps = 4 if k > 128 else 1
        wide, half_wide = 1 << (k - 1).bit_length(), 1 << (half - 1).bit_length()
        sets = dict(whole=I32, halves=I32, k=N, half=N)
        blocks = dict(R=max(1, 1024 // wide), K=wide) | ones
        yield f"reciprocal-{k}", "jaccard_encodings", "reciprocal_kernel", sets | dict(ranks=I32), blocks, WARP
        expand = sets | ROWS | dict(products=F, claims=I32, lengths=I32, known=I32, rows=N)
        blocks = dict(K=wide, C=min(wide, max(1, 256 * warps // half_wide)), H=half_wide) | ones
        for count in (True, False):
            flags = dict(COUNT=count) | blocks
            yield (
                f"expand-{k}-{count}",
                "jaccard_encodings",
                "expand_kernel",
                expand,
                flags,
                LOOP | dict(num_warps=warps),
            )
    weights = ROWS | dict(features=F, known=I32, width=N)
    yield "weights", "jaccard_encodings", "weights_kernel", weights, dict(E=8, D=256), dict(num_warps=4, num_stages=1)
    new = dict(new_pointers=I64, new_columns=I32, new_values=F)
    mean = ROWS | new | dict(ranks=I32, sums=I64, met=I64, uses=I32, lengths=I32, rows=N, k=N, k2=N, room=N)
    for count in (True, False):
        flags = dict(COUNT=count, BLOCK=32)
        yield f"mean-{count}", "jaccard_encodings", "mean_kernel", mean | dict(scale=SCALAR), flags, LOOP


def graph_cases():
    blocks = dict(BLOCK=64)
    bodies = ROWS | dict(uses=I32, bodies=I32, held=I32, weights=F, least=SCALAR)
    yield "bodies", "jaccard", "bodies_kernel", bodies, blocks, LOOP
    index = ROWS | dict(bodies=I32, cursors=I64, holders=I32, held_values=F)
    yield "index", "jaccard", "index_kernel", index, blocks, LOOP
    near = dict(slots=I64, near_columns=I32, near_distances=F)
    pairs = index | near | dict(starts=I64, sums=I32, met=I32, kept=I32, rows=N, max_distance=SCALAR, enough=SCALAR)
    yield "pairs", "jaccard", "pairs_kernel", pairs, blocks | dict(MANY=4), LOOP
    order = near | dict(pointers=I64, columns=I64, distances=F)
    yield "order", "jaccard", "order_kernel", order, dict(BLOCK=32), WARP
    dense = ROWS | dict(spread=I32, distances=F, rows=N)
    yield "dense", "jaccard", "dense_kernel", dense, blocks | dict(MANY=4), LOOP


def label_cases():
    for dense, distances in ((False, F), (True, F), (True, D)):
        pairs = dict(pointers=distances if dense else I64, columns=distances if dense else I64, distances=distances)
        pairs |= dict(eps=SCALAR, rows=N, parents=I32)
        flags = dict(DENSE=dense, BLOCK=64)
        name = f"{'dense' if dense else 'sparse'}-{distances[1:]}"
        yield f"cores-{name}", "dbscan", "cores_kernel", pairs | dict(min_samples=N), flags, WARP
        yield f"unite-{name}", "dbscan", "unite_kernel", pairs, flags, WARP
        labels = pairs | dict(roots=I32, numbers=I64, labels=I64)
        yield f"labels-{name}", "dbscan", "labels_kernel", labels, flags, WARP
    yield "roots", "dbscan", "roots_kernel", dict(parents=I32, roots=I32, rows=N), dict(BLOCK=256), dict(num_warps=4)
    for x in (F, H, D):
        means = dict(features=x, order=I64, bounds=I64, out=x, width=N)
        flags = dict(ROWS=8, BLOCK=256)
        yield f"means-{x[1:]}", "centroids", "means_kernel", means, flags, dict(num_warps=4, num_stages=1)


CASES = [
    (arch, *case) for arch in ARCHITECTURES for cases in (encoding_cases, graph_cases, label_cases) for case in cases()
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"sm_{case[0]}-{case[1]}")
def test_no_spills_and_shared_memory_fits(case):
    arch, _, module, name, signature, constexprs, options = case
    kernel = getattr(importlib.import_module(f"salcr.kernels.{module}"), name)
    used = compile_for(kernel, signature, constexprs, arch, aligned=("width",), **options)
    print(used)
    assert used.spills == 0, used
    assert used.shared <= SHARED_LIMIT[arch], used
