"""Ranking metrics of a distance matrix, by the data sets' protocols."""

import numpy as np
import torch

from benchmarks.case import Case
from salcr import ops


def same_ranking(outputs: ops.RankingResult, expected: ops.RankingResult) -> None:
    """Equal counts; the means agree to the rounding of a float64 sum."""
    assert outputs.valid_queries == expected.valid_queries
    for name in ("cmc", "mAP", "mINP", "precision", "query_ap", "query_inp"):
        np.testing.assert_allclose(getattr(outputs, name), getattr(expected, name), rtol=1e-12, err_msg=name)


def _ranking_case(name: str, protocol: str, queries: int, gallery: int, identities: int) -> Case:
    def make_inputs(device, quick):
        q, g, ids = (queries // 50, gallery // 10, identities // 10) if quick else (queries, gallery, identities)
        generator = torch.Generator().manual_seed(0)
        query_ids, gallery_ids = torch.arange(q) % ids, torch.arange(g) % ids
        distances = torch.rand(q, g, generator=generator) - 0.3 * (query_ids[:, None] == gallery_ids)
        cameras = (torch.randint(low, high, (n,), generator=generator) for low, high, n in ((1, 7, q), (1, 7, g)))
        return tuple(x.to(device) for x in (distances, query_ids, gallery_ids, *cameras))

    def variant(impl):
        return lambda *inputs: ops.evaluate_ranking(*inputs, protocol=protocol, impl=impl)

    note = f"{queries} queries, {gallery} gallery images, {identities} identities, {protocol} protocol"
    variants = {impl: variant(impl) for impl in ("reference", "numba")}
    floor_bytes = lambda distances, *labels: distances.nbytes  # noqa: E731
    return Case(name, note, make_inputs, variants, same_ranking, floor_bytes=floor_bytes)


CASES = (
    _ranking_case("evaluate_ranking-sysu", "sysu", 3803, 301, 96),
    _ranking_case("evaluate_ranking-regdb", "regdb", 2060, 2060, 206),
    _ranking_case("evaluate_ranking-cuhk03", "cuhk03", 70, 5332, 700),
)
