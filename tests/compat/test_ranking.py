import numpy as np
import pytest
import torch

from salcr import compat
from salcr.reference.published.reranking import rerank_distances
from tests.ops.test_ranking import by_hand


def problem(generator, queries=15, images=40, identities=6):
    ids = (torch.randint(0, identities, (n,), generator=generator).numpy() for n in (queries, images))
    cams = (torch.randint(1, 5, (n,), generator=generator).numpy() for n in (queries, images))
    return torch.rand(queries, images, generator=generator).numpy(), *ids, *cams


@pytest.mark.parametrize("as_given", [lambda x: x, torch.from_numpy], ids=["array", "tensor"])
@pytest.mark.parametrize("name", ["sysu", "regdb", "llcm"])
def test_figures_are_the_protocols(generator, name, as_given):
    distances, *columns = problem(generator)
    expected = by_hand(distances, *columns, name, 20)
    columns = columns[:2] if name == "regdb" else columns
    cmc, mean_precision, mean_penalty = getattr(compat, f"eval_{name}")(*map(as_given, (distances, *columns)))
    assert isinstance(cmc, np.ndarray) and cmc.shape == (20,)
    np.testing.assert_allclose(cmc, expected[0], atol=1e-12)
    assert (mean_precision, mean_penalty) == pytest.approx(expected[1:3], abs=1e-12)


@pytest.mark.parametrize(("max_rank", "length"), [(50, 40), (5, 5)])
def test_evaluate_rank_is_market1501s_or_cuhk03s(generator, max_rank, length):
    given = problem(generator)
    cmc, mean_precision = compat.evaluate_rank(*given, max_rank=max_rank, use_metric_cuhk03=False, use_cython=True)
    expected = by_hand(*given, "market1501", length)
    assert len(cmc) == length
    np.testing.assert_allclose(cmc, expected[0], atol=1e-12)
    assert mean_precision == pytest.approx(expected[1], abs=1e-12)
    of_itself = compat.evaluate_rank(*given)
    np.testing.assert_array_equal(of_itself[0][:length], cmc)
    assert len(of_itself[0]) == 40 and of_itself[1] == mean_precision  # 50, or the gallery
    few = given[0][:, :9], given[1], given[2][:9], given[3], given[4][:9]
    cmc, mean_precision = compat.evaluate_rank(*few, max_rank=5, use_metric_cuhk03=True)
    expected = by_hand(*few, "cuhk03", 5)
    np.testing.assert_allclose(cmc, expected[0], atol=1e-12)
    assert mean_precision == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("options", [dict(), dict(k1=6, k2=3, lambda_value=0.5), dict(k1=5, k2=1)])
def test_re_ranking_is_that_of_the_published_loops(generator, options, squared):
    centres = torch.randn(8, 16, generator=generator)
    x = centres[torch.arange(50) % 8] + 0.7 * torch.randn(50, 16, generator=generator)
    distances = torch.cdist(x, x).numpy() ** (2 if squared else 1)
    parts = distances[:20, 20:], distances[:20, :20], distances[20:, 20:]
    found = compat.re_ranking(*parts, **options)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    np.testing.assert_allclose(found, rerank_distances(*parts, **options), atol=1e-5)
    tensors = compat.re_ranking(*map(torch.from_numpy, map(np.ascontiguousarray, parts)), **options)
    assert isinstance(tensors, torch.Tensor) and np.array_equal(tensors.numpy(), found)
    wide = compat.re_ranking(*(part.astype(np.float64) for part in parts), **options)
    assert wide.dtype == np.float32 and np.array_equal(wide, found)


@pytest.mark.parametrize("name", ["evaluate_rank", "eval_sysu", "eval_regdb", "eval_llcm"])
def test_what_is_no_matrix_is_named_and_any_order_of_bytes_is_read(generator, name):
    distances, *columns = problem(generator)
    columns = columns[:2] if name == "eval_regdb" else columns
    figures = getattr(compat, name)
    with pytest.raises(TypeError, match=r"^distmat must be a NumPy array or a tensor, got list$"):
        figures(distances.tolist(), *columns)
    with pytest.raises(ValueError, match=r"^distances must have 2 axes"):
        figures(distances[0], *columns)
    swapped = distances.astype(distances.dtype.newbyteorder())
    for found, expected in zip(figures(swapped, *columns), figures(distances, *columns), strict=True):
        np.testing.assert_array_equal(found, expected)
