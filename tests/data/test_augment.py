import dataclasses
import math
import random

import numpy as np
import pytest
import torch

from salcr import ops
from salcr.data.augment import (
    LOCAL_SCALINGS,
    Augmentation,
    draw_crops,
    draw_erased,
    draw_jitter,
    draw_rectangles,
    draw_scalings,
    make_views,
)
from salcr.ops.augmentation import Adjust, Draw

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
ERASED, GREY = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2989, 0.5870, 0.1140])
PLAIN = Augmentation(pad=0, erase=0.0, jitter=0.0)
VIEWS = ("visible", "channel_augmented", "infrared")


def photos(generator, batch=6, height=24, width=12):
    return torch.randint(0, 256, (batch, height, width, 3), generator=generator, dtype=torch.uint8)


def views(augmentation, name, images, generator, **options):
    return make_views(images, getattr(augmentation, name)(*images.shape[:3], generator, **options))


def in_bytes(found):
    """Views as ``[B, 3, H, W]`` in units of a byte, which only cropping leaves whole."""
    mean, deviation = (torch.from_numpy(x).view(3, 1, 1) for x in (MEAN, STD))
    return 255 * (found.double() * deviation + mean)


def normalized(pixels):
    """uint8 ``[..., 3]`` as the network sees it."""
    return (pixels.astype(np.float64) / 255 - MEAN) / STD


def standard_error(p, n):
    return (p * (1 - p) / n) ** 0.5


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_the_networks_shape_and_range_and_leaves_the_images(generator, view):
    images = photos(generator)
    before, state = images.clone(), torch.get_rng_state()
    found = views(Augmentation(), view, images, generator)
    assert found.shape == (6, 3, 24, 12) and found.dtype == torch.float32
    low, high = (0 - MEAN) / STD, (1 - MEAN) / STD
    assert found.min() >= low.min() - 1e-5 and found.max() <= high.max() + 1e-5
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("view", "options"), [*((view, {}) for view in VIEWS), ("visible", {"local_scaling": True})])
def test_a_view_is_determined_by_the_generator(generator, seed, view, options):
    images = photos(generator)
    first, second, third = (
        views(Augmentation(), view, images, torch.Generator().manual_seed(s), **options) for s in (seed, seed, seed + 1)
    )
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_the_strengths_are_those_of_the_paper():
    assert dataclasses.asdict(Augmentation()) == {"pad": 10, "erase": 0.5, "jitter": 0.5}


def test_switched_off_only_the_mirror_is_left(generator):
    images = photos(generator, batch=8)
    found = views(PLAIN, "visible", images, generator).numpy()
    for image, view in zip(images.numpy(), found, strict=True):
        upright, mirrored = (normalized(x).transpose(2, 0, 1) for x in (image, image[:, ::-1]))
        assert np.allclose(view, upright, atol=1e-5) or np.allclose(view, mirrored, atol=1e-5)


def test_features_for_clustering_see_the_plain_image(generator):
    images = photos(generator)
    found = ops.augment(images).numpy()
    np.testing.assert_allclose(found, normalized(images.numpy()).transpose(0, 3, 1, 2), atol=1e-6)


@pytest.mark.parametrize("pad", [0, 1, 3])
def test_crops_are_windows_of_the_padded_image_or_of_its_mirror(generator, pad):
    """Every image is found in its padded original; all places and both directions are drawn, evenly."""
    batch, height, width = 600, 7, 4
    images = photos(generator, batch, height, width)
    found = in_bytes(views(Augmentation(pad=pad, erase=0.0), "visible", images, generator))
    assert found.shape == (batch, 3, height, width)
    places = []
    for image, crop in zip(images.numpy(), found.round().byte().permute(0, 2, 3, 1).numpy(), strict=True):
        padded = np.zeros((height + 2 * pad, width + 2 * pad, 3), np.uint8)
        padded[pad : pad + height, pad : pad + width] = image
        matches = [
            (top, left, mirrored)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            for mirrored in (False, True)
            if np.array_equal(padded[top : top + height, left : left + width][:, :: -1 if mirrored else 1], crop)
        ]
        assert len(matches) == 1
        places += matches
    for axis, values in ((0, 2 * pad + 1), (1, 2 * pad + 1), (2, 2)):
        counts = np.bincount([place[axis] for place in places], minlength=values)
        expected = batch / values
        assert len(counts) == values and (abs(counts - expected) < 5 * (expected * (1 - 1 / values)) ** 0.5 + 1).all()
    if pad:
        top, left, mirrored = np.array(places, float).T
        assert abs(np.corrcoef([top, left, mirrored]) - np.eye(3)).max() < 5 / batch**0.5


def test_padding_is_black_before_normalising(generator):
    images = torch.full((40, 6, 6, 3), 255, dtype=torch.uint8)
    found = views(Augmentation(pad=6, erase=0.0), "visible", images, generator)
    black, white = ((value - MEAN) / STD for value in (0, 1))
    for c in range(3):
        values = found[:, c].unique().tolist()
        assert len(values) == 2
        np.testing.assert_allclose(values, [black[c], white[c]], atol=1e-5)


def test_each_image_of_a_batch_has_its_own_draws(generator):
    images = photos(generator, batch=1).expand(30, -1, -1, -1)
    for view in VIEWS:
        found = views(Augmentation(erase=0.0), view, images, generator)
        assert len({x.numpy().tobytes() for x in found}) > 25, view


def test_jitter_draws_factors_and_turns_for_each_image_and_an_order_for_the_batch(generator):
    batch, strength, orders = 500, 0.4, []
    for _ in range(60):
        table = draw_crops(batch, 0, generator)
        draw_jitter(table, strength, generator)
        order = table[:, Draw.FIRST : Draw.FOURTH + 1]
        assert (order == order[0]).all() and order[0].sort()[0].tolist() == [1, 2, 3, 4]
        orders.append(tuple(order[0].tolist()))
    assert all({order[place] for order in orders} == {1, 2, 3, 4} for place in range(4)) and len(set(orders)) > 15
    drawn = table[:, Draw.BRIGHTNESS : Draw.TURN + 1] - torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert drawn.abs().max() <= strength and (drawn.abs().amax(0) > 0.97 * strength).all()
    assert (drawn.mean(0).abs() < 5 * strength * (3 * batch) ** -0.5).all()
    assert (drawn.T.corrcoef() - torch.eye(4)).abs().max() < 5 / batch**0.5


def test_jitter_without_strength_changes_nothing(generator):
    images = photos(generator, batch=50)
    table = draw_crops(50, 0, generator)
    draw_jitter(table, 0.0, generator)
    assert (table[:, Draw.FIRST] != Adjust.NOTHING).all()
    table[:, Draw.MIRRORED] = 0
    torch.testing.assert_close(ops.augment(images, table), ops.augment(images), atol=1e-5, rtol=0)


def as_rectangles(drawn):
    """(tall, wide, top, left) of each row ``[B, 4]`` of top, bottom, left, right, None where it is empty."""
    for top, bottom, left, right in drawn.tolist():
        assert top <= bottom and left <= right
        yield (bottom - top, right - left, top, left) if top < bottom and left < right else None


def published_rectangle(height, width, draw):
    """Random erasing (Zhong et al., 2020): draw area and aspect until the rectangle is smaller than the image."""
    while True:
        area, aspect = draw.uniform(0.02, 0.4) * height * width, draw.uniform(0.3, 3.3)
        tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if tall < height and wide < width:
            return tall, wide, draw.randint(0, height - tall), draw.randint(0, width - wide)


@pytest.mark.parametrize(("height", "width"), [(72, 36), (40, 40)])
def test_rectangles_have_the_areas_and_aspects_of_random_erasing(generator, seed, height, width):
    batch = 3000
    found, draw = list(as_rectangles(draw_rectangles(batch, height, width, generator))), random.Random(seed)
    assert None not in found
    expected = np.array([published_rectangle(height, width, draw) for _ in range(batch)], float)
    found = np.array(found, float)
    for rows in (found, expected):
        tall, wide = rows[:, 0], rows[:, 1]
        # Rounding moves a side by half a cell at most.
        assert ((tall + 0.5) * (wide + 0.5) >= 0.02 * height * width).all()
        assert ((tall - 0.5) * (wide - 0.5) <= 0.4 * height * width).all()
        assert ((tall + 0.5) / (wide - 0.5) >= 0.3).all() and ((tall - 0.5) / (wide + 0.5) <= 3.3).all()
        assert (tall < height).all() and (wide < width).all()

    def moments(rows):
        tall, wide, top, left = rows.T
        place_y, place_x = top / (height - tall), left / (width - wide)
        return np.stack([tall * wide, np.log(tall / wide), (tall * wide) ** 2, place_y, place_x, place_y * place_x])

    a, b = moments(found), moments(expected)
    error = ((a.var(1) + b.var(1)) / batch) ** 0.5
    assert (abs(a.mean(1) - b.mean(1)) < 5 * error).all()
    assert found[:, 2].min() == 0 and (found[:, 0] + found[:, 2]).max() == height
    assert found[:, 3].min() == 0 and (found[:, 1] + found[:, 3]).max() == width


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 1), (1, 40), (3, 3)])
def test_an_image_too_small_for_a_rectangle_gets_none_or_a_smaller_one(generator, height, width):
    for found in as_rectangles(draw_rectangles(50, height, width, generator)):
        assert found is None or (found[0] < height and found[1] < width)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_erasing_writes_the_constants_into_one_rectangle(generator, probability):
    batch = 800
    images, table = photos(generator, batch, 20, 10), draw_crops(batch, 0, generator)
    before = ops.augment(images, table)
    draw_erased(table, probability, 20, 10, generator)
    found = ops.augment(images, table)
    changed = (found != before).any(1)
    places = list(as_rectangles(table[:, Draw.ERASED_TOP : Draw.ERASED_RIGHT + 1]))
    for mask, place in zip(changed, places, strict=True):
        expected = torch.zeros(20, 10, dtype=torch.bool)
        if place is not None:
            tall, wide, top, left = map(int, place)
            expected[top : top + tall, left : left + wide] = True
        assert torch.equal(mask, expected)
    constants = torch.tensor(ERASED, dtype=torch.float32).view(3, 1, 1).expand_as(found)
    assert torch.equal(found, torch.where(changed.unsqueeze(1), constants, before))
    share = np.mean([place is not None for place in places])
    assert abs(share - probability) <= 5 * standard_error(probability, batch)


def test_erasing_comes_after_normalising(generator):
    images = torch.full((20, 20, 10, 3), 255, dtype=torch.uint8)
    found = views(Augmentation(pad=0, erase=1.0), "visible", images, generator)
    white = (1 - MEAN) / STD
    for c in range(3):
        values = found[:, c].unique().tolist()
        np.testing.assert_allclose(values, sorted([ERASED[c], white[c]]), atol=1e-5)


def kinds(found, colour):
    """How many images are of the one channel, the weighted grey or the whole of a colour, of images in that colour."""
    values = (colour - MEAN) / STD
    forms = {name: np.full(3, value) for name, value in zip(("red", "green", "blue"), values, strict=True)}
    forms |= {"grey": np.full(3, values @ GREY), "unchanged": values}
    assert (found == found[:, :, :1, :1]).all()
    near = {name: (abs(found[:, :, 0, 0].double().numpy() - form) < 1e-4).all(1) for name, form in forms.items()}
    assert (sum(is_near.astype(int) for is_near in near.values()) == 1).all()
    return {name: is_near.sum() for name, is_near in near.items()}


@pytest.mark.parametrize(
    ("view", "shares"),
    [
        ("visible", dict(unchanged=1.0)),
        ("channel_augmented", dict(red=1 / 3, green=1 / 3, blue=1 / 3)),
        ("infrared", dict(red=0.25, green=0.25, blue=0.25, grey=0.125, unchanged=0.125)),
    ],
)
def test_channels_are_mixed_as_often_as_the_spec_says(generator, view, shares):
    batch, colour = 40000, np.array([20, 120, 230])
    images = torch.tensor(colour, dtype=torch.uint8).expand(batch, 2, 2, 3)
    counts = kinds(views(PLAIN, view, images, generator), colour / 255)
    for kind, count in counts.items():
        share = shares.get(kind, 0.0)
        assert abs(count / batch - share) <= 5 * standard_error(share, batch), kind


def test_infrared_mixes_channels_after_erasing(generator):
    """The erased constants are mixed as the image is: the rectangle of a grey image has their weighted sum."""
    images = torch.tensor([20, 120, 230], dtype=torch.uint8).expand(300, 20, 10, 3)
    found = views(Augmentation(pad=0, erase=1.0, jitter=0.0), "infrared", images, generator).numpy()
    seen = set()
    for image in found:
        inside = [np.unique(channel.round(4)) for channel in image]
        for name, values in (
            ("one", [ERASED[0]] * 3),
            ("one", [ERASED[1]] * 3),
            ("one", [ERASED[2]] * 3),
            ("grey", [ERASED @ GREY] * 3),
            ("unchanged", ERASED),
        ):
            if all(abs(channel - value).min() < 2e-4 for channel, value in zip(inside, values, strict=True)):
                seen.add(name)
                break
        else:
            pytest.fail("the rectangle has none of the constants")
    assert seen == {"one", "grey", "unchanged"}


def test_colour_is_jittered_in_two_views_and_not_in_the_visible_one(generator):
    images = torch.tensor([20, 120, 230], dtype=torch.uint8).expand(200, 2, 2, 3)
    strong = Augmentation(pad=0, erase=0.0)
    unchanged = torch.tensor((np.array([20, 120, 230]) / 255 - MEAN) / STD).float()
    found = views(strong, "visible", images, generator)
    torch.testing.assert_close(found, unchanged.view(3, 1, 1).expand(200, 3, 2, 2))
    for view in ("channel_augmented", "infrared"):
        found = views(strong, view, images, generator)
        assert len(found[:, 0, 0, 0].unique()) > 150, view


def scaled(images, generator, bound=LOCAL_SCALINGS):
    """Images ``[B, H, W, 3]`` scaled locally by at most ``bound`` rectangles each, ``[B, 3, H, W]`` in [0, 1]."""
    table = draw_crops(len(images), 0, torch.Generator())
    table[:, Draw.MIRRORED] = 0
    scalings = draw_scalings(table, *images.shape[1:3], generator, probability=1.0)
    found = ops.augment(images, table, scalings=scalings[:, :bound])
    return (in_bytes(found) / 255).float()


@pytest.mark.parametrize("value", [0, 1, 255])
def test_local_scaling_is_finite_and_bounded_on_flat_images(generator, value):
    found = scaled(torch.full((100, 20, 10, 3), value, dtype=torch.uint8), generator)
    assert torch.isfinite(found).all() and found.min() >= -1e-6 and found.max() <= 1 + 1e-6
    if value == 0:
        assert found.abs().max() < 1e-6


def test_a_black_image_passes_through_the_visible_view(generator):
    images = torch.zeros(50, 20, 10, 3, dtype=torch.uint8)
    found = views(Augmentation(pad=2, erase=0.0), "visible", images, generator, local_scaling=True)
    black = torch.tensor(-MEAN / STD).float().view(3, 1, 1)
    torch.testing.assert_close(found, black.expand_as(found))


def test_the_factors_of_a_rectangle_follow_the_arcsine_law(generator):
    batch = 300
    table = draw_crops(batch, 0, generator)
    scalings = draw_scalings(table, 20, 10, generator, probability=1.0)
    assert scalings.shape == (batch, 32, 7) and table[:, Draw.SCALING].tolist() == list(range(batch))
    betas = scalings[..., 4:].flatten(0, 1).double().numpy()
    # Beta(1/2, 1/2): mean 1/2, variance 1/8, a third of its mass below 1/4.
    assert abs(betas.mean() - 0.5) < 5 * (0.125 / betas.size) ** 0.5
    assert abs(betas.var() - 0.125) < 0.01
    assert abs((betas < 0.25).mean() - 1 / 3) < 5 * standard_error(1 / 3, betas.size)
    assert abs(np.corrcoef(betas.T) - np.eye(3)).max() < 5 / len(betas) ** 0.5  # channels are drawn apart


def scaled_by_hand(image, draw):
    """One rectangle after the other on ``[3, H, W]``; (how many, the scaled image)."""
    image, product, count = image.astype(np.float64), np.ones(image.shape), 0
    while product.min() > 1e-6 and count < 32:
        tall, wide, top, left = published_rectangle(*image.shape[1:], draw)
        for channel, factors in zip(image, product, strict=True):
            inside = slice(top, top + tall), slice(left, left + wide)
            if channel[inside].max() > 0:
                factor = draw.betavariate(0.5, 0.5) / channel[inside].max()
                channel[inside] *= factor
                factors[inside] *= factor
        count += 1
    return count, image


def test_local_scaling_goes_on_until_something_is_scaled_away(generator, seed):
    """As often and as far as docs/method.md, "Augmentation", says, and as images are scaled by hand."""
    batch = 300
    images = photos(generator, batch, 72, 36)
    x = images.permute(0, 3, 1, 2) / 255
    found = scaled(images, torch.Generator().manual_seed(seed))
    counts = np.full(batch, LOCAL_SCALINGS)
    for bound in range(LOCAL_SCALINGS - 1, 0, -1):  # with fewer rectangles an image is the same if it had ended by then
        shorter = scaled(images, torch.Generator().manual_seed(seed), bound=bound)
        counts[(shorter == found).flatten(1).all(1).numpy()] = bound
    draw = random.Random(seed)
    expected_counts, expected = zip(*(scaled_by_hand(image, draw) for image in x.numpy()), strict=True)

    def summary(counts, scaled):
        kept = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(x.numpy(), scaled, strict=True)]
        changed = (abs(np.stack(scaled) - x.numpy()) > 1e-6).any(1).mean((1, 2))
        return np.stack([counts, np.asarray(counts) <= 4, changed, kept, np.stack(scaled).mean((1, 2, 3))]).astype(
            float
        )

    ours, theirs = summary(counts, found.double().numpy()), summary(expected_counts, expected)
    error = ((ours.var(1) + theirs.var(1)) / batch) ** 0.5
    assert (abs(ours.mean(1) - theirs.mean(1)) < 5 * error).all()
    rectangles, few, changed, *_ = ours.mean(1)
    assert abs(rectangles - 11.3) < 5 * (ours[0].var() / batch) ** 0.5
    assert abs(few - 0.04) < 5 * standard_error(0.04, batch)
    assert abs(changed - 0.72) < 5 * (ours[2].var() / batch) ** 0.5


def test_local_scaling_draws_as_much_whatever_the_images_hold(generator, seed):
    """An image that ends early must not move the draws of what comes after, nor those of other images."""
    images = photos(generator, 12, 20, 10)
    other = images.clone()
    other[0] = 0
    after = [torch.Generator().manual_seed(seed) for _ in range(2)]
    found, changed = (scaled(y, g) for y, g in zip((images, other), after, strict=True))
    assert torch.equal(after[0].get_state(), after[1].get_state()) and torch.equal(found[1:], changed[1:])


def test_half_of_the_images_are_scaled_locally(generator):
    batch = 1000
    table = draw_crops(batch, 0, generator)
    scalings = draw_scalings(table, 20, 10, generator)
    chosen = table[:, Draw.SCALING] >= 0
    assert table[chosen, Draw.SCALING].tolist() == list(range(len(scalings)))
    assert abs(float(chosen.float().mean()) - 0.5) < 5 * standard_error(0.5, batch)
    assert draw_scalings(table, 20, 10, generator, probability=0.0) is None


def test_only_the_first_stage_scales_locally(generator):
    images = photos(generator, batch=40)
    flat, scaled = (
        views(Augmentation(pad=0, erase=0.0), "visible", images, torch.Generator().manual_seed(3), local_scaling=on)
        for on in (False, True)
    )
    changed = (flat != scaled).flatten(1).any(1)
    assert 5 < int(changed.sum()) < 35


@pytest.mark.cuda
@pytest.mark.parametrize(("view", "options"), [*((view, {}) for view in VIEWS), ("visible", {"local_scaling": True})])
def test_the_draws_are_the_same_on_a_gpu(generator, seed, view, options):
    images = photos(generator, batch=16)
    near, far = (
        views(Augmentation(), view, images.to(device), torch.Generator().manual_seed(seed), **options)
        for device in ("cpu", "cuda")
    )
    assert far.device.type == "cuda"
    torch.testing.assert_close(far.cpu(), near, atol=1e-4, rtol=0)
