"""salcr._C refuses what does not fit: each array of each function, one entry more or fewer along each of its axes.

The operators check what they are given and make the other arrays themselves, so no call of theirs comes this far.
"""

import copy

import numpy as np
import pytest

from salcr.ops._dispatch import missing

pytestmark = pytest.mark.skipif(bool(missing("cpp")), reason=str(missing("cpp")))
ELSEWHERE = {
    *("linear_assignment", "solve_assignment"),  # have no result where something does not fit
    *("nearest_coded", "round_rows", "nearest_pairs"),  # in test_knn_codes.py and test_knn_pairs.py
    *("code_bytes", "screens_in_bytes"),  # take no array
}


def ones(*shape):
    return np.ones(shape, np.float32)


def zeros(*shape, dtype=np.int64):
    return np.zeros(shape, dtype)


def encodings(rows):
    """Row pointers, and an entry a row of column 0 and value 1 as it lies in memory."""
    entry = np.array([(0, 1)], dtype=[("column", np.int32), ("value", np.float32)])
    return np.arange(rows + 1), np.tile(entry, rows).view(np.uint8)


def all_calls():
    """By function or method, arguments that fit."""
    block = dict(products=ones(5, 7), scale=ones(5))
    targets = dict(targets=zeros(5), soft=ones(5, 7))
    sets = dict(features=ones(2, 5, 3), memory=ones(2, 7, 3), positives=zeros(2, 5, 4), temperature=1.0)
    near = dict(ranks=zeros(6, 4, dtype=np.int32), products=ones(6, 4), half=2)
    some_rows = near | dict(first=1, last=6)
    all_rows = near | dict(features=ones(6, 3), factors=ones(6), k2=2)
    norms = dict(maps=[ones(6, 3)] * 2, parameters=[ones(3)] * 4, statistics=[ones(3)] * 4, y=ones(6, 3))
    norms |= dict(given=True, eps=1e-5)
    pool = dict(map=ones(6, 9, 5), channels_last=True, parts=2, views=3, power=3.0)
    pool |= dict(means=ones(6, 5), tokens=ones(2, 5), scores=ones(6, 2, 4), queries=ones(6, 2, 5))
    pool |= dict(weights=ones(6, 3, 2, 4))
    forms = {name: ones(6, 2, 5) for name in ("own", "pg1", "pg2")}
    gradients = {f"{name}_gradient": x for name, x in forms.items()} | dict(query_gradient=ones(6, 2, 5))
    gradients |= dict(mean_gradient=ones(6, 5), token_gradient=ones(2, 2, 5), map_gradient=ones(6, 9, 5))
    ascending = np.tile(np.arange(4), (5, 1))
    pointers, entries = encodings(5)
    tile = dict(tile=ones(2, 3), first_row=4, first_column=6)
    return {
        "augment": dict(images=zeros(4, 5, 6, 3, dtype=np.uint8), draws=ones(2, 17) * 0, rows=zeros(2))
        | dict(scalings=ones(2, 3, 7), views=ones(2, 5, 6, 3)),
        "batch_norm_relu": norms | dict(shortcut=ones(6, 3)),
        "batch_norm_relu_backward": norms
        | dict(gradient=ones(6, 3), again=ones(6, 3), of_shortcut=ones(6, 3))
        | dict(of_maps=[ones(6, 3)] * 2, of_parameters=[ones(3)] * 4),
        "cluster_centroids": dict(features=ones(5, 3), labels=zeros(5), centroids=ones(2, 3)),
        "contrast_losses": block | targets | dict(losses=ones(5), lse=ones(5)),
        "contrast_shares": block | targets | dict(weight=ones(5)),
        "rows_through_normalisation": dict(gradient=ones(5, 3), features=ones(5, 3)),
        "update_cluster_memory": dict(memory=ones(2, 4, 3), features=ones(2, 5, 3), targets=zeros(2, 5))
        | dict(order=np.arange(5), momentum=0.1, hardest=False),
        "dbscan_dense": dict(distances=ones(5, 5), eps=0.5, min_samples=4, labels=zeros(5)),
        "dbscan_sparse": dict(pointers=np.array([0, 2, 2, 3]), columns=np.array([0, 2, 1]), distances=ones(3))
        | dict(eps=0.5, min_samples=4, labels=zeros(3)),
        "intersect_sets": dict(sets=[ascending[:, :3].copy(), ascending], out=zeros(5, 3)),
        "unite_sets": dict(sets=[ascending[:, :3].copy(), ascending], out=zeros(5, 7)),
        "search_rows": block | dict(k=3, shares=False, indices=zeros(5, 3), lse=ones(5)),
        "positives_lse": sets | dict(near=ones(2, 5)),
        "set_contrast_backward": sets | dict(pull=ones(2, 5, 3), weight=ones(2, 5), gradient=ones(2, 5, 3)),
        "graph_cosines": dict(ranks=zeros(6, 4, dtype=np.int32), weights=ones(6, 3), cosines=ones(2, 4)),
        "sinkhorn": dict(cost=ones(2, 5, 3), lam=5.0, tol=0.1, max_iter=2, check_every=1, plan=ones(2, 5, 3)),
        "jaccard_graph": all_rows | dict(max_distance=0.5),
        "jaccard_distance": all_rows | dict(distances=ones(6, 6)),
        "jaccard_unlisted_pairs": some_rows,
        "jaccard_weighted_rows": some_rows | dict(pair_pointers=np.arange(6), pair_products=ones(5)),
        "row_cosines": dict(left=ones(5, 3), right=ones(5, 3)),
        "jaccard_averaged_rows_float32": dict(pointers=pointers, entries=entries, columns=7)
        | dict(places=zeros(4, 2, dtype=np.int32)),
        "jaccard_rarest_first_float32": dict(pointers=pointers, entries=entries, uses=zeros(7, dtype=np.int32)),
        "jaccard_near_pairs_float32": dict(zip(("left_pointers", "left_entries"), encodings(5), strict=True))
        | dict(zip(("right_pointers", "right_entries"), encodings(6), strict=True))
        | dict(offset=0, columns=7, max_distance=0.5),
        "nearest_rows": dict(queries=ones(2, 5), database=ones(7, 5), scores=ones(2, 3), indices=zeros(2, 3))
        | dict(screen="floats"),
        "pool_forward": pool | forms,
        "pool_backward": pool | gradients,
        "propagate": dict(own=ones(6, 3), other=ones(9, 3), out=ones(6, 3)),
        "GraphRowsFloat32.add_rows": tile,
        "GraphRowsFloat32.add_columns": tile | dict(first_row=7, first_column=3, begin=3),
        "TopKFloat32.add": tile | dict(row_terms=ones(6), column_terms=ones(9), own=False),
        "TopKFloat32.write": dict(scores=ones(6, 3), indices=zeros(6, 3), own=True),
    }


CALLS = all_calls()
FREE = {  # axes along which an array may have another size; arrays of which the dtype and the strides may be others
    "augment": {("images", 0), ("scalings", 0), ("scalings", 1)},
    "cluster_centroids": {("centroids", 0)},
    "update_cluster_memory": {("memory", 1)},
    "dbscan_dense": {("distances", "type")},
    "dbscan_sparse": {("distances", "type")},
    "intersect_sets": {("sets", 1), ("sets", "type")},
    "unite_sets": {("sets", "type")},
    "search_rows": {("products", 1)},
    "positives_lse": {("memory", 1), ("positives", 2)},
    "set_contrast_backward": {("memory", 1), ("positives", 2)},
    "graph_cosines": {("ranks", 1), ("weights", 1)},
    "jaccard_graph": {("features", 1)},
    "jaccard_distance": {("features", 1)},
    "jaccard_unlisted_pairs": {("products", "type")},
    "jaccard_averaged_rows_float32": {("places", 0), ("places", 1)},
    "jaccard_rarest_first_float32": {("uses", 0)},
    "nearest_rows": {("database", 0)},
    "pool_forward": {("map", 1)},
    "GraphRowsFloat32.add_rows": {("tile", 0), ("tile", 1)},
    "GraphRowsFloat32.add_columns": {("tile", 0), ("tile", 1)},
    "TopKFloat32.add": {("tile", 0), ("tile", 1), ("row_terms", "type"), ("column_terms", 0), ("column_terms", "type")},
}
ENTRIES = {  # of an array, by its place, that point out of bounds
    "augment": {("rows", 0): (-1, 4), ("draws", 16): (2, np.nan)},  # the view's chain of scalings
    "cluster_centroids": {("labels", 0): (2,)},
    "contrast_losses": {("targets", 0): (7,)},
    "contrast_shares": {("targets", 0): (7,)},
    "update_cluster_memory": {("targets", 0): (4,), ("order", 0): (-1, 5)},
    "dbscan_sparse": {("pointers", 0): (1,), ("pointers", 1): (-1, 3), ("columns", 0): (-1, 3)},
    "positives_lse": {("positives", 0): (7,)},
    "set_contrast_backward": {("positives", 0): (7,)},
    "graph_cosines": {("ranks", 0): (-1, 6)},
    "jaccard_graph": {("ranks", 0): (-1, 6)},
    "jaccard_distance": {("ranks", 0): (-1, 6)},
    "jaccard_unlisted_pairs": {("ranks", 0): (-1, 6)},
    "jaccard_weighted_rows": {("ranks", 0): (-1, 6), ("pair_pointers", 0): (1,), ("pair_pointers", 1): (-1, 3)},
    "jaccard_averaged_rows_float32": {("places", 0): (-1, 5), ("pointers", 0): (1,), ("pointers", 1): (-1, 3)},
    "jaccard_rarest_first_float32": {("entries", 0): (7,), ("entries", 3): (255,)},  # a column, and its sign
    "jaccard_near_pairs_float32": {
        **{(f"{side}_entries", 0): (7,) for side in ("left", "right")},
        **{(f"{side}_pointers", 1): (-1, 3) for side in ("left", "right")},
    },
}
NUMBERS = {
    "update_cluster_memory": dict(threads=(0,)),
    "search_rows": dict(k=(0, 2, 4)),
    "sinkhorn": dict(max_iter=(0,), check_every=(0,)),
    "jaccard_graph": dict(half=(0, 5), k2=(0, 5), max_distance=(-0.1, 1.0, np.nan)),
    "jaccard_unlisted_pairs": dict(half=(0, 5), first=(-1, 7), last=(0, 7)),
    "jaccard_near_pairs_float32": dict(offset=(-1,), max_distance=(-0.1, 1.0, np.nan)),
    "nearest_rows": dict(screen=("magic",)),
    "pool_forward": dict(parts=(-1, 10), views=(0, 2, 6)),
    "pool_backward": dict(parts=(-1, 10), views=(0, 2, 6)),
    "GraphRowsFloat32.add_rows": dict(first_row=(-1, 5), first_column=(-1, 7)),
    "GraphRowsFloat32.add_columns": dict(first_row=(-1, 8), first_column=(-1, 5), begin=(2,)),
    "TopKFloat32.add": dict(first_row=(-1, 5), first_column=(-1, 7), own=(True,)),
    "TopKFloat32.write": dict(own=(False,)),
}


def call(name, changes):
    """With the arguments that fit, but for ``changes``."""
    from salcr import _C

    arguments = dict(threads=1) | copy.deepcopy(CALLS[name]) | changes
    if name == "propagate":
        graphs = dict(own_graph=_C.GraphRowsFloat32(6, 6, 2), other_graph=_C.GraphRowsFloat32(6, 9, 2))
        return _C.propagate(**arguments, **graphs)
    kind, _, method = name.partition(".")
    sizes = dict(GraphRowsFloat32=(6, 9, 2), TopKFloat32=(6, 2))
    function = getattr(getattr(_C, kind)(*sizes[kind]), method) if method else getattr(_C, kind)
    return function(**arguments)


def misfits(x, free):
    for axis in {*range(x.ndim)} - free:
        yield np.delete(x, 0, axis)
        yield np.insert(x, x.shape[axis], x.take(0, axis), axis)
    if "type" not in free:
        yield x.astype(np.int8 if x.itemsize == 1 else f"{x.dtype.kind}{12 - x.itemsize}")
        yield np.repeat(x, 2, axis=-1)[..., ::2]


def test_every_function_is_called_here_or_elsewhere():
    from salcr import _C

    names = {name for name, value in vars(_C).items() if callable(value) and not name.startswith("_")}
    here = {name.partition(".")[0] for name in CALLS} | ELSEWHERE
    assert names == here | {name.replace("32", "64") for name in here}


@pytest.mark.parametrize("name", CALLS)
def test_arrays_that_do_not_fit_are_refused(name):
    call(name, {})
    for argument, given in CALLS[name].items():
        free = {what for of, what in FREE.get(name, ()) if of == argument}
        arrays = given if isinstance(given, list) else [given]
        for n, x in enumerate(arrays):
            for other in misfits(x, free) if isinstance(x, np.ndarray) else ():
                changed = [*arrays[:n], other, *arrays[n + 1 :]]
                with pytest.raises((TypeError, ValueError)):
                    call(name, {argument: changed if isinstance(given, list) else other})
                    pytest.fail(f"{argument} {other.dtype} {other.shape} of strides {other.strides}")


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_that_point_out_of_bounds_are_refused(name):
    for (argument, place), values in ENTRIES[name].items():
        for value in values:
            spoilt = CALLS[name][argument].copy()
            spoilt.flat[place] = value
            with pytest.raises(ValueError):
                call(name, {argument: spoilt})
                pytest.fail(f"{argument} with {value}")


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_out_of_range_are_refused(name):
    for argument, values in NUMBERS[name].items():
        for value in values:
            with pytest.raises(ValueError):
                call(name, {argument: value})
                pytest.fail(f"{argument}={value}")


def test_what_a_thread_raises_reaches_the_caller(rng):
    """A product of a pair is missing, which shows in the midst of the work."""
    from salcr import _C

    cosines = np.corrcoef(rng.standard_normal((40, 8))).astype(np.float32)
    ranks = np.argsort(-cosines, 1)[:, :8].astype(np.int32)
    near = ranks, np.take_along_axis(cosines, ranks, 1), 0, 40, 4
    pointers, others = _C.jaccard_unlisted_pairs(*near, 2)
    products = np.ones(len(others), np.float32)
    assert len(_C.jaccard_weighted_rows(*near, pointers, products, 2)) == 2
    pointers[1 + np.diff(pointers).argmax() :] -= 1
    with pytest.raises(ValueError, match="pairs do not fit"):
        _C.jaccard_weighted_rows(*near, pointers, products[1:], 2)
