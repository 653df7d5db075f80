"""What operators make of arguments at the edges: numbers that are none, or far beyond sense."""

import numpy as np
import pytest
import torch

from salcr import ops

ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
SQUARE = (ROWS @ ROWS.T).abs()
SETS = torch.tensor([[0, 2, -1], [1, 3, 5]])
MEMORY, TARGETS = torch.eye(4), torch.tensor([0, 1, -1] * 2)
MAPS, TOKENS = torch.ones(3, 2, 2, 2), torch.ones(2, 2)

INTEGERS = {
    "k of knn": lambda k: ops.knn(ROWS, k),
    "k of instance_neighbors": lambda k: ops.instance_neighbors(ROWS, ROWS, k),
    "k of instance_search": lambda k: ops.instance_search(ROWS, ROWS, k),
    "k of propagate_features": lambda k: ops.propagate_features(ROWS, ROWS, k=k),
    "k1 of jaccard_distance": lambda k: ops.jaccard_distance(ROWS, k1=k),
    "k2 of jaccard_graph": lambda k: ops.jaccard_graph(ROWS, k2=k, max_distance=0.5),
    "k1 of cluster": lambda k: ops.cluster(ROWS, eps=0.5, k1=k),
    "min_samples of cluster": lambda k: ops.cluster(ROWS, eps=0.5, min_samples=k),
    "min_samples of dbscan": lambda k: ops.dbscan(SQUARE, eps=0.5, min_samples=k),
    "max_iter of sinkhorn": lambda k: ops.sinkhorn(SQUARE, max_iter=k),
    "check_every of sinkhorn": lambda k: ops.sinkhorn(SQUARE, check_every=k),
    "max_rank of evaluate_ranking": lambda k: ops.evaluate_ranking(
        SQUARE, [1] * 6, [1] * 6, protocol="regdb", max_rank=k
    ),
    "k1 of rerank_k_reciprocal": lambda k: ops.rerank_k_reciprocal(ROWS, ROWS, k1=k),
    "k2 of rerank_k_reciprocal": lambda k: ops.rerank_k_reciprocal(ROWS, ROWS, k2=k),
    "k1 of rerank_distances": lambda k: ops.rerank_distances(SQUARE, SQUARE, SQUARE, k1=k),
    "k2 of rerank_distances": lambda k: ops.rerank_distances(SQUARE, SQUARE, SQUARE, k2=k),
    "k1 of rerank_gnn": lambda k: ops.rerank_gnn(ROWS, ROWS, k1=k),
    "k2 of rerank_gnn": lambda k: ops.rerank_gnn(ROWS, ROWS, k2=k),
    "k of rerank_cross_modality": lambda k: ops.rerank_cross_modality(ROWS, ROWS, k=k),
    "k1 of affinity_inference": lambda k: ops.affinity_inference(ROWS, ROWS, k1=k),
    "k2 of affinity_inference": lambda k: ops.affinity_inference(ROWS, ROWS, k2=k),
    "num_clusters of cluster_centroids": lambda k: ops.cluster_centroids(ROWS, torch.tensor([0, 1] * 3), k),
}
NUMBERS = {
    "eps of dbscan": lambda x: ops.dbscan(SQUARE, eps=x),
    "eps of cluster": lambda x: ops.cluster(ROWS, eps=x),
    "max_distance of jaccard_graph": lambda x: ops.jaccard_graph(ROWS, max_distance=x),
    "lam of sinkhorn": lambda x: ops.sinkhorn(SQUARE, lam=x),
    "tol of sinkhorn": lambda x: ops.sinkhorn(SQUARE, tol=x),
    "lambda_value of rerank_k_reciprocal": lambda x: ops.rerank_k_reciprocal(ROWS, ROWS, lambda_value=x),
    "power of rerank_k_reciprocal": lambda x: ops.rerank_k_reciprocal(ROWS, ROWS, power=x),
    "lambda_value of rerank_distances": lambda x: ops.rerank_distances(SQUARE, SQUARE, SQUARE, lambda_value=x),
    "power of rerank_distances": lambda x: ops.rerank_distances(SQUARE, SQUARE, SQUARE, power=x),
    "power of rerank_gnn": lambda x: ops.rerank_gnn(ROWS, ROWS, power=x),
    "eta of rerank_cross_modality": lambda x: ops.rerank_cross_modality(ROWS, ROWS, eta=x),
    "temperature of cluster_contrast": lambda x: ops.cluster_contrast(ROWS, MEMORY, TARGETS, temperature=x),
    "temperature of cluster_contrast_sum": lambda x: ops.cluster_contrast_sum(ROWS, [MEMORY], [TARGETS], temperature=x),
    "temperature of set_contrast": lambda x: ops.set_contrast(ROWS, MEMORY, TARGETS[:, None], temperature=x),
    "temperature of instance_neighbors": lambda x: ops.instance_neighbors(ROWS, MEMORY, 1, temperature=x),
    "temperature of instance_search": lambda x: ops.instance_search(ROWS, MEMORY, 1, temperature=x),
    "momentum of update_cluster_memory_": lambda x: ops.update_cluster_memory_(
        MEMORY.clone(), ROWS, TARGETS, momentum=x
    ),
    "p of gem_pool": lambda x: ops.gem_pool(MAPS, x),
    "eps of gem_pool": lambda x: ops.gem_pool(MAPS, eps=x),
    "p of semantic_pool": lambda x: ops.semantic_pool(MAPS, TOKENS, p=x),
    "eps of semantic_pool": lambda x: ops.semantic_pool(MAPS, TOKENS, eps=x),
}
MAY_BE_INFINITE, POSITIVE = ("max_distance", "tol"), ("eps", "lam", "power", "temperature", "p")
AT_MOST_ONE = "lambda_value", "momentum"


@pytest.mark.parametrize("argument", INTEGERS)
def test_integers_are_integers(argument):
    call, name = INTEGERS[argument], argument.split()[0]
    for value in (2.0, True, np.float32(2), torch.tensor(2), "2", None):
        if not (value is None and name == "num_clusters"):
            with pytest.raises(TypeError, match=f"^{name} must be an int, got"):
                call(value)
    for value in (2**63, 2**64, -1, *(() if name == "num_clusters" else (0,))):
        with pytest.raises(ValueError, match=f"^{name} must be .*, got {value}|^cluster 2 has no member"):
            call(value)
    call(np.int64(2))


def test_more_neighbours_than_there_is_room_for_are_refused():
    with pytest.raises(ValueError, match="k must be between 1 and 1048576, got 1099511627776"):
        ops.instance_neighbors(ROWS, ROWS, 2**40)


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype:UserWarning")
def test_a_nested_tensor_is_refused():
    nested = torch.nested.nested_tensor([ROWS, ROWS], layout=torch.strided)
    for call in (lambda: ops.knn(nested, 1), lambda: ops.instance_neighbors(nested, nested, 1)):
        with pytest.raises(TypeError, match="must be dense, got a nested tensor"):
            call()


def test_numbers_of_8_bits_are_refused():
    small = ROWS.to(torch.float8_e4m3fn)
    for call in (lambda: ops.knn(small, 1), lambda: ops.instance_neighbors(small, small, 1)):
        with pytest.raises(TypeError, match=r"must have 16 bits or more, got torch\.float8_e4m3fn"):
            call()


def test_a_temperature_whose_inverse_overflows_is_refused():
    sets, targets = torch.zeros(len(ROWS), 1, dtype=torch.int64), torch.zeros(len(ROWS), dtype=torch.int64)
    for call in (
        lambda **options: ops.cluster_contrast(ROWS, ROWS, targets, **options),
        lambda **options: ops.cluster_contrast_sum(ROWS, [ROWS], [targets], **options),
        lambda **options: ops.set_contrast(ROWS, ROWS, sets, **options),
        lambda **options: ops.instance_search(ROWS, ROWS, 2, **options),
    ):
        with pytest.raises(ValueError, match=r"temperature must be at least 1\.2e-38, got 1e-45"):
            call(temperature=1e-45)


def test_weights_of_sets_have_the_precision_of_the_gradient():
    """In float64 the eager backend divided by counts times a temperature that were one number in float32."""
    x, sets = ROWS.double().requires_grad_(), torch.tensor([[0, 2], [1, -1], [3, -1]]).repeat(2, 1)
    gradients = []
    for impl in ("eager", "reference"):
        loss = ops.set_contrast(x, torch.nn.functional.normalize(ROWS.double()), sets, temperature=0.3, impl=impl)
        gradients.append(torch.autograd.grad(loss, x)[0])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("argument", NUMBERS)
def test_numbers_are_numbers(argument):
    """And no tensors, which could want a gradient."""
    call, name = NUMBERS[argument], argument.split()[0]
    for value in ("0.5", True, None, torch.tensor(0.5), torch.nn.Parameter(torch.tensor(0.5))):
        with pytest.raises(TypeError, match=f"^{name} must be a number, got {type(value).__name__}"):
            call(value)
    wrong = [torch.nan, -1.0] + [0.0] * (name in POSITIVE) + [1.1] * (name in AT_MOST_ONE)
    for value in (*wrong, *(() if name in MAY_BE_INFINITE else (torch.inf,))):
        with pytest.raises(ValueError, match=f"^{name} must .*got {value}"):
            call(value)
    for value in (1, 0.5, np.float32(0.5)):
        call(value)


def test_flags_are_true_or_false():
    for options in (dict(maximize=2), dict(return_duals="no")):
        with pytest.raises(TypeError, match=f"^{next(iter(options))} must be True or False, got"):
            ops.linear_assignment(SQUARE, **options)


def test_numbers_of_clusters_beyond_the_labels_ask_for_no_memory():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    with pytest.raises(ValueError, match=f"cluster 3 has no member .{2**40 - 3} of {2**40} clusters"):
        ops.cluster_centroids(ROWS, labels, 2**40)
    with pytest.raises(ValueError, match="cluster 3 has no member"):
        ops.cluster_centroids(ROWS, labels.index_fill(0, torch.tensor([5]), 2**62))


@pytest.mark.parametrize("impl", ["reference", "numba"])
def test_a_curve_is_of_bounded_length(impl):
    ranking = SQUARE, np.arange(6), np.arange(6)
    long = ops.evaluate_ranking(*ranking, protocol="regdb", max_rank=2**20, impl=impl).cmc
    assert long.shape == (2**20,) and (long[5:] == 1).all()
    with pytest.raises(ValueError, match="max_rank must be between 1 and 1048576, got 1048577"):
        ops.evaluate_ranking(*ranking, protocol="regdb", max_rank=2**20 + 1, impl=impl)


def test_identities_beyond_int64_are_refused():
    """Taken as int64, 2⁶³ + 1 and -2⁶³ + 1 would be one identity."""
    for bad in (np.array([2**63 + 1], "u8"), [2**63 + 1]):
        with pytest.raises(ValueError, match=r"query_ids must be below 2..63, got 9223372036854775809"):
            ops.evaluate_ranking(SQUARE[:1], bad, np.arange(6), protocol="regdb")
    with pytest.raises(ValueError, match="gallery_cams is no array"):
        ops.evaluate_ranking(SQUARE, np.arange(6), np.arange(6), np.arange(6), [[1], [1, 2]] * 3)
    for bad in (torch.arange(6).to_sparse(), torch.arange(6).float(), torch.arange(6).to(torch.float8_e4m3fn)):
        with pytest.raises(TypeError, match=r"query_ids must be (dense|integers), got"):
            ops.evaluate_ranking(SQUARE, bad, np.arange(6), protocol="regdb")


def test_distances_of_any_floating_array():
    expected = ops.evaluate_ranking(SQUARE, np.arange(6), np.arange(6), protocol="regdb").mAP
    for dtype in (">f4", ">f8", np.longdouble):
        got = ops.evaluate_ranking(SQUARE.numpy().astype(dtype), np.arange(6), np.arange(6), protocol="regdb").mAP
        assert got == expected
    for dtype in (np.int64, object, complex):
        with pytest.raises(TypeError, match="distances must be floating"):
            ops.evaluate_ranking(SQUARE.numpy().astype(dtype), np.arange(6), np.arange(6), protocol="regdb")


@pytest.mark.parametrize("operator", [ops.intersect_sets, ops.unite_sets])
@pytest.mark.parametrize("bad", [-7, -(2**63), 2**63 - 1])
def test_indices_that_no_set_can_hold(operator, bad):
    rows = SETS.clone()
    rows[0, 2] = bad
    with pytest.raises(ValueError, match=r"sets\[1\] must be -1 or from 0 to 2..63 - 2"):
        operator(SETS, rows)
    rows[0, 2] = 2**63 - 2
    assert operator(rows)[0].tolist() == [0, 2, 2**63 - 2]


@pytest.mark.parametrize("impl", ["reference", "cpp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_plans_are_finite_or_an_error(dtype, impl):
    """Up to 1 / ε the exponents are known to a whole number at least; beyond, both backends refuse."""
    cost = SQUARE.to(dtype) / SQUARE.max()
    span = float((cost.amax(1) - cost.amin(1)).max())
    plan = ops.sinkhorn(cost, lam=0.9 / torch.finfo(dtype).eps / span, max_iter=50, impl=impl)
    assert plan.isfinite().all() and (plan >= 0).all()
    assert ((plan.sum(0) * 6).log().abs() < 1).all()
    largest = torch.finfo(dtype).max
    for bad, lam in ((cost, 1.1 / torch.finfo(dtype).eps / span), (cost * largest, 5.0), (cost[:, :1], 2 * largest)):
        with pytest.raises(ValueError, match=r"^lam"):
            ops.sinkhorn(bad, lam=lam, impl=impl)
    with pytest.raises(ValueError, match=r"^lam"):
        ops.sinkhorn(torch.tensor([[largest, -largest]], dtype=dtype), lam=1 / largest, impl=impl)  # the range is Inf


@pytest.mark.parametrize("values", [torch.ones(6, 3).bfloat16(), torch.ones(6, 3).double()])
def test_given_neighbours_have_the_precision_of_a_search(values):
    """C++ computes with the given products, the formula with the features'."""
    indices = ops.knn(ROWS, 3)[1]
    with pytest.raises(TypeError, match=r"neighbors\[0\] must be torch.float32 for torch.float32 features"):
        ops.jaccard_distance(ROWS, k1=3, neighbors=(values, indices))
    for pair in (indices, (values,), "ab c"):
        with pytest.raises(TypeError, match="neighbors must be a pair"):
            ops.jaccard_distance(ROWS, k1=3, neighbors=pair)


@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_given_neighbours_may_want_a_gradient_or_stand_behind_a_negative_bit(impl):
    values, indices = ops.knn(ROWS, 3)
    expected = ops.jaccard_distance(ROWS, k1=3, neighbors=(values, indices), impl=impl)
    for pair in ((values.clone().requires_grad_(), indices), (torch._neg_view(-values), torch._neg_view(-indices))):
        assert torch.equal(ops.jaccard_distance(ROWS, k1=3, neighbors=pair, impl=impl), expected)


@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_radii_beyond_float32(impl):
    distances = torch.tensor([[0.0, 1e300, torch.inf], [1e300, 0.0, torch.inf], [torch.inf, torch.inf, 0.0]]).double()
    for eps, labels in ((1e300, [-1, -1, -1]), (1e-300, [-1, -1, -1])):
        assert ops.dbscan(distances, eps=eps, min_samples=2, impl=impl).tolist() == labels
    assert ops.jaccard_graph(ROWS, max_distance=1e300, impl=impl).values().numel() == 36


@pytest.mark.parametrize("impl", ["reference", "cpp"])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_cell_that_is_no_number_stays_in_its_part(impl, parts):
    """Of 7 cells in two parts the last belongs to none."""
    x = torch.randn(3, 4, 1, 7, generator=torch.Generator().manual_seed(1))
    tokens = x[:1, :, 0, :parts].mT[0].clone().requires_grad_()
    for cell in range(7):
        bad = x.clone()
        bad[..., cell] = torch.nan
        part = cell // (7 // parts)
        pooled = ops.part_prototypes(bad, tokens, impl=impl), *ops.semantic_parts(bad, tokens, impl=impl)
        for found in pooled:
            assert found.isnan().all((0, 2)).tolist() == [n == part for n in range(parts)]
            assert found.isnan().any((0, 2)).tolist() == [n == part for n in range(parts)]
        (gradient,) = torch.autograd.grad(sum(y.sum() for y in pooled), tokens)
        assert gradient.isnan().any(1).tolist() == [n == part for n in range(parts)]


def test_strides_of_identities_compile_nothing_anew():
    from salcr.ops.backends.numba.ranking import _measure

    def rank(ids):
        return ops.evaluate_ranking(SQUARE, ids, ids, ids, ids, protocol="sysu", impl="numba").mAP

    ids = np.arange(12).repeat(2)[:12] // 4
    expected, compiled = rank(ids[::2].copy()), len(_measure.signatures)
    fixed = ids[::2].copy()
    fixed.flags.writeable = False
    assert rank(ids[::2]) == rank(fixed) == rank(torch.from_numpy(ids)[::2]) == expected
    assert len(_measure.signatures) == compiled
