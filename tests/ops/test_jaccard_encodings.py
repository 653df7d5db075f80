"""The kernels of :mod:`salcr.kernels.jaccard_encodings` on a GPU; the same without one: tests/kernels."""

import pytest
import torch

from tests.ops.label_problems import KINDS, check_encodings, images

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "k1", "k2"), [(1200, 30, 6), (700, 25, 1), (500, 400, 3), (20, 30, 6), (1, 1, 1)])
def test_encodings(generator, kind, rows, k1, k2):
    check_encodings(images(generator, kind, rows).cuda(), k1, k2)


@pytest.mark.parametrize("width", [1, 33, 2048])
def test_any_width(generator, width):
    check_encodings(images(generator, "groups", 300, width).cuda(), 20, 4)


def test_little_scratch(generator, monkeypatch):
    """One program takes all rows, as with millions of images few take many."""
    from salcr.kernels import launch

    monkeypatch.setattr(launch, "SCRATCH_SHARE", 0)
    check_encodings(torch.cat([images(generator, kind, 60) for kind in ("groups", "hubs")]).cuda(), 12, 3)
