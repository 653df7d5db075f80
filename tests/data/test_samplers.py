from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salcr.data.samplers import _members, stage_one_batches, stage_two_batches


def labels_of(*sizes, noise=0, generator=None):
    """``sizes[c]`` images of cluster c and some noise, shuffled."""
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(sizes)] + [torch.full((noise,), -1)])
    return labels if generator is None else labels[torch.randperm(len(labels), generator=generator)]


def one(visible, infrared, generator, iterations=1, identities=3, images=4):
    return stage_one_batches(
        visible, infrared, iterations=iterations, identities=identities, images=images, generator=generator
    )


def two(v, r_as_v, v_as_r, r, generator, iterations=1, identities=4, images=3):
    return stage_two_batches(
        v, r_as_v, v_as_r, r, iterations=iterations, identities=identities, images=images, generator=generator
    )


def blocks(labels, rows, images):
    """The cluster of each identity slot; all rows of a slot must be of one cluster."""
    slots = labels[rows].view(-1, images)
    assert (slots == slots[:, :1]).all()
    return slots[:, 0].tolist()


# ---- stage one -------------------------------------------------------------------------------------------------------


def test_a_batch_has_as_many_images_of_as_many_clusters_in_either_modality(generator):
    visible, infrared = labels_of(6, 9, 5, 7, 8, noise=9, generator=generator), labels_of(5, 6, 7, generator=generator)
    batches = list(one(visible, infrared, generator, iterations=40))
    assert len(batches) == 40
    seen = set()
    for rows_v, rows_r in batches:
        assert rows_v.shape == rows_r.shape == (12,) and rows_v.dtype == rows_r.dtype == torch.int64
        clusters_v, clusters_r = blocks(visible, rows_v, 4), blocks(infrared, rows_r, 4)
        assert len(set(clusters_v)) == len(set(clusters_r)) == 3 and -1 not in clusters_v
        assert len(rows_v.unique()) == len(rows_r.unique()) == 12  # every cluster has more than four images
        seen |= {*clusters_v}
    assert seen == set(range(5))


def test_modalities_draw_their_clusters_apart(generator):
    labels = labels_of(*[2] * 6)
    pairs = {
        (a, b)
        for rows_v, rows_r in one(labels, labels, generator, iterations=400, identities=1)
        for a, b in zip(blocks(labels, rows_v, 4), blocks(labels, rows_r, 4), strict=True)
    }
    assert len(pairs) == 36


@pytest.mark.parametrize(("size", "repeats"), [(1, True), (3, True), (4, True), (5, False), (30, False)])
def test_images_repeat_only_where_a_cluster_has_no_more_than_a_slot_takes(generator, size, repeats):
    """With replacement only if the cluster has <= 12 images (4 here)."""
    labels = labels_of(size)
    drawn = [rows for rows, _ in one(labels, labels, generator, iterations=60, identities=1)]
    assert any(len(rows.unique()) < 4 for rows in drawn) == repeats
    assert set(torch.cat(drawn).tolist()) == set(range(size))


def test_images_and_clusters_are_drawn_evenly(generator):
    labels = labels_of(3, 9, 20)
    rows = torch.cat([rows for rows, _ in one(labels, labels, generator, iterations=3000, identities=1, images=4)])
    clusters = torch.bincount(labels[rows]).double() / len(rows)
    assert (abs(clusters - 1 / 3) < 5 * (2 / 9 / 3000) ** 0.5).all()  # whatever their size
    for c, size in enumerate((3, 9, 20)):
        counts = torch.bincount(rows[labels[rows] == c])[-size:].double()
        expected = counts.sum() / size
        assert (abs(counts - expected) < 5 * expected**0.5).all()


def test_images_of_a_cluster_stand_in_their_order(generator):
    """On any processor: NumPy's sort that is not stable has an order of its own on each."""
    labels = torch.randint(-1, 3, (5000,), generator=generator)
    for cluster, rows in _members("labels", labels).items():
        assert torch.equal(rows, (labels == cluster).nonzero()[:, 0])


def test_fewer_clusters_than_slots_are_drawn_again(generator):
    (visible, infrared), seen = (labels_of(5, 5), labels_of(5)), set()
    for rows_v, rows_r in one(visible, infrared, generator, iterations=20, identities=6):
        drawn = blocks(visible, rows_v, 4)
        assert len(drawn) == 6 and set(blocks(infrared, rows_r, 4)) == {0}
        seen.update(drawn)
    assert seen == {0, 1}


def test_as_many_clusters_as_slots_come_once_each(generator):
    labels = labels_of(5, 5, 5)
    for rows, _ in one(labels, labels, generator, iterations=20):
        assert sorted(blocks(labels, rows, 4)) == [0, 1, 2]


def test_numbers_of_clusters_may_have_gaps(generator):
    labels = torch.tensor([7, -1, 2, 7, 2, 7])
    for rows, _ in one(labels, labels, generator, iterations=10, identities=2):
        assert sorted(blocks(labels, rows, 4)) == [2, 7]


@pytest.mark.parametrize(
    ("visible", "infrared", "message"),
    [
        (labels_of(noise=5), labels_of(3), "visible_labels has no cluster: all 5 images are noise"),
        (labels_of(3), labels_of(noise=4), "infrared_labels has no cluster: all 4 images are noise"),
        (labels_of(3), torch.zeros(0, dtype=torch.int64), "infrared_labels has no cluster: all 0 images"),
    ],
)
def test_a_modality_without_a_cluster_is_named(generator, visible, infrared, message):
    with pytest.raises(ValueError, match=message):
        next(one(visible, infrared, generator))


# ---- stage two -------------------------------------------------------------------------------------------------------


def cross_problem(generator, clusters=(6, 5), images=(60, 50)):
    """(v, r as v, v as r, r) with noise at the same images in own and cross labels."""
    v, v_as_r, r, r_as_v = (
        torch.randint(0, clusters[side], (images[of],), generator=generator)
        for of, side in ((0, 0), (0, 1), (1, 1), (1, 0))
    )
    for own, cross in ((v, v_as_r), (r, r_as_v)):
        own[:6] = cross[:6] = -1
    return v, r_as_v, v_as_r, r


def test_position_i_of_both_modalities_has_the_same_identity(generator):
    v, r_as_v, v_as_r, r = cross_problem(generator)
    for rows_v, rows_r in two(v, r_as_v, v_as_r, r, generator, iterations=30):
        assert rows_v.shape == rows_r.shape == (12,)
        first, second = slice(0, 6), slice(6, 12)  # two visible clusters, then two infrared ones, three images each
        assert torch.equal(v[rows_v[first]], r_as_v[rows_r[first]])
        assert torch.equal(v_as_r[rows_v[second]], r[rows_r[second]])
        for labels, rows in ((v, rows_v[first]), (r, rows_r[second])):
            clusters = blocks(labels, rows, 3)
            assert len(set(clusters)) == 2 and -1 not in clusters


def test_twelve_slots_are_six_of_either_kind(generator):
    v, r_as_v, v_as_r, r = cross_problem(generator, (20, 20), (400, 400))
    (batch,) = two(v, r_as_v, v_as_r, r, generator, identities=12, images=12)
    assert all(rows.shape == (144,) for rows in batch)
    assert len(set(blocks(v, batch[0][:72], 12))) == 6 and len(set(blocks(r, batch[1][72:], 12))) == 6
    assert blocks(v, batch[0][:72], 12) == blocks(r_as_v, batch[1][:72], 12)
    assert blocks(v_as_r, batch[0][72:], 12) == blocks(r, batch[1][72:], 12)


def test_an_odd_number_of_slots_has_one_visible_cluster_more(generator):
    v, r_as_v, v_as_r, r = cross_problem(generator)
    for rows_v, rows_r in two(v, r_as_v, v_as_r, r, generator, iterations=5, identities=3):
        assert torch.equal(v[rows_v[:6]], r_as_v[rows_r[:6]]) and torch.equal(v_as_r[rows_v[6:]], r[rows_r[6:]])
    for rows_v, rows_r in two(v, r_as_v, v_as_r, r, generator, iterations=5, identities=1):
        assert torch.equal(v[rows_v], r_as_v[rows_r])


def test_a_cluster_without_a_cross_partner_is_never_drawn(generator):
    """Visible cluster 2 is no infrared image's, infrared cluster 0 no visible image's."""
    v, r_as_v = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 0, 0])
    v_as_r, r = torch.tensor([1, 2, 1, 2, 1, 2]), torch.tensor([0, 0, 1, 2, 1])
    drawn_v, drawn_r = set(), set()
    for rows_v, rows_r in two(v, r_as_v, v_as_r, r, generator, iterations=60):
        drawn_v |= {*blocks(v, rows_v[:6], 3)}
        drawn_r |= {*blocks(r, rows_r[6:], 3)}
    assert drawn_v == {0, 1} and drawn_r == {1, 2}


def test_fewer_eligible_clusters_than_slots_are_drawn_again(generator):
    v, r_as_v = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1])  # visible cluster 1 alone is eligible
    v_as_r, r = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1])
    for rows_v, rows_r in two(v, r_as_v, v_as_r, r, generator, iterations=10, identities=6):
        assert blocks(v, rows_v[:9], 3) == [1, 1, 1]
        assert torch.equal(v_as_r[rows_v[9:]], r[rows_r[9:]])


@pytest.mark.parametrize("side", ["visible", "infrared"])
def test_a_side_without_any_pair_leaves_its_slots_to_the_other(generator, side):
    """One modality's clusters 0 and 1 are asked for by nobody: cross labels name clusters 2 and 3 only."""
    nobody, asking = torch.tensor([2, 3, 2]), torch.tensor([0, 1, 1])
    own, cross = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    v, r_as_v, v_as_r, r = (own, nobody, cross, asking) if side == "visible" else (asking, cross, nobody, own)
    shared_v, shared_r = (v_as_r, r) if side == "visible" else (v, r_as_v)
    for rows_v, rows_r in two(v, r_as_v, v_as_r, r, generator, iterations=10, identities=2):
        assert torch.equal(shared_v[rows_v], shared_r[rows_r])
        assert sorted(blocks(shared_v, rows_v, 3)) == [0, 1]


def test_no_pair_at_all_is_an_error(generator):
    with pytest.raises(ValueError, match="no cluster has images of both modalities"):
        next(two(torch.tensor([0]), torch.tensor([1]), torch.tensor([1]), torch.tensor([0]), generator))


@pytest.mark.parametrize("position", range(4))
def test_labels_that_are_all_noise_are_named(generator, position):
    names = "visible_labels", "infrared_as_visible", "visible_as_infrared", "infrared_labels"
    arguments = list(cross_problem(generator))
    arguments[position] = torch.full_like(arguments[position], -1)
    with pytest.raises(ValueError, match=f"{names[position]} has no cluster"):
        next(two(*arguments, generator))


@pytest.mark.parametrize(("size", "repeats"), [(2, True), (3, True), (4, False)])
def test_pairs_repeat_images_by_the_same_rule(generator, size, repeats):
    zeros = torch.zeros(size, dtype=torch.int64)
    many = torch.zeros(30, dtype=torch.int64)
    drawn = list(two(zeros, many, zeros, many, generator, iterations=40, identities=2))
    assert any(len(rows.unique()) < 3 for both, _ in drawn for rows in both.view(2, 3)) == repeats
    assert all(len(rows.unique()) == 3 for _, both in drawn for rows in both.view(2, 3))


def test_the_same_seed_gives_the_same_batches(seed):
    problem = cross_problem(torch.Generator().manual_seed(seed))
    state = torch.get_rng_state()

    def both(start):
        generator = torch.Generator().manual_seed(start)
        return [*one(problem[0], problem[3], generator, 5), *two(*problem, generator, 5)]

    first, second, third = both(seed), both(seed), both(seed + 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, y) for a, b in zip(first, second, strict=True) for x, y in zip(a, b, strict=True))
    assert any(not torch.equal(x, y) for a, b in zip(first, third, strict=True) for x, y in zip(a, b, strict=True))
    assert all(not torch.equal(a[0], b[0]) for a, b in pairwise(first))


LABELS = st.lists(st.integers(-1, 3), min_size=1, max_size=12).map(torch.tensor)


@given(v=LABELS, r=LABELS, data=st.data())
@settings(deadline=None, max_examples=60, derandomize=True)
def test_whatever_the_labels_every_pair_shares_an_identity_or_there_is_none(v, r, data):
    v_as_r = torch.tensor(data.draw(st.lists(st.integers(-1, 3), min_size=len(v), max_size=len(v))))
    r_as_v = torch.tensor(data.draw(st.lists(st.integers(-1, 3), min_size=len(r), max_size=len(r))))
    visible = {*v.tolist()} & {*r_as_v.tolist()} - {-1}
    infrared = {*r.tolist()} & {*v_as_r.tolist()} - {-1}
    batches = two(v, r_as_v, v_as_r, r, torch.Generator().manual_seed(0), identities=4, images=2)
    if any((x < 0).all() for x in (v, r, v_as_r, r_as_v)) or not (visible or infrared):
        with pytest.raises(ValueError, match="no cluster"):
            next(batches)
        return
    ((rows_v, rows_r),) = batches
    half = 8 if not infrared else 4 if visible else 0
    assert len(rows_v) == len(rows_r) == 8
    assert {*v[rows_v[:half]].tolist()} <= visible and torch.equal(v[rows_v[:half]], r_as_v[rows_r[:half]])
    assert {*r[rows_r[half:]].tolist()} <= infrared and torch.equal(v_as_r[rows_v[half:]], r[rows_r[half:]])
