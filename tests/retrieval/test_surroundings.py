"""An index is made and searched alike whatever a program has set around that, and leaves all of that as it was."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from salcr.retrieval import Index, build_index
from salcr.retrieval.export import export_network
from tests.surroundings import SURROUNDINGS


def search(folder):
    index = Index.open(folder / "index", device="cpu")
    return [index.search([folder / "pictures"], top=3, refine=refine) for refine in ("none", "cmfp", "k_reciprocal")]


@pytest.fixture(scope="module")
def found(indexed):
    return search(indexed)


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_the_same_index_within(indexed, found, checkpoint, tmp_path, surroundings):
    with SURROUNDINGS[surroundings]():
        build_index([indexed / "pictures"], checkpoint, tmp_path / "index", dtype="float32", device="cpu")
        assert search(indexed) == found
    features = (Index.open(folder / "index", device="cpu").features for folder in (tmp_path, indexed))
    np.testing.assert_array_equal(*features)


def test_the_same_export_within_all(checkpoint, tmp_path):
    with ExitStack() as stack:
        for surroundings in SURROUNDINGS.values():
            stack.enter_context(surroundings())
        stack.enter_context(torch.inference_mode())
        within = export_network(checkpoint, tmp_path / "within.pt2", format="torch")
    assert within == export_network(checkpoint, tmp_path / "without.pt2", format="torch")


def test_a_checkpoint_is_read_without_drawing_numbers(indexed):
    before = torch.get_rng_state()
    search(indexed)
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_too_small_for_float16_are_zero_where_numpy_raises(pictures, checkpoint, tmp_path):
    for name, reaction in (("ignored", "ignore"), ("raised", "raise")):
        with np.errstate(all=reaction):
            build_index([pictures], checkpoint, tmp_path / name, device="cpu")
    features = (Index.open(tmp_path / name, device="cpu").features for name in ("ignored", "raised"))
    np.testing.assert_array_equal(*features)
