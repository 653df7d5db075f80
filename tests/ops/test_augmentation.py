import colorsys

import numpy as np
import pytest
import torch

from salcr import ops, reference
from salcr.ops.augmentation import Adjust, Draw, Mix
from tests.ops.augmentation_problems import LIMIT, ORDERS, check_backend, check_chains, photos, problem
from tests.ops.contract import assert_compiles, assert_operator_contract

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
ERASED, GREY = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2989, 0.5870, 0.1140])


def row(**draws):
    """A table of one view that changes nothing but what is given."""
    table = torch.zeros(1, len(Draw))
    table[:, Draw.CHANNELS], table[:, Draw.SCALING] = Mix.NONE, -1
    for name, value in draws.items():
        table[:, Draw[name]] = value
    return table


def adjusted_by_hand(image, order, brightness, contrast, saturation, turn):
    """``[H, W, 3]`` float64, the adjustments one after the other."""
    for step in order:
        if step == Adjust.BRIGHTNESS:
            image = image * brightness
        elif step == Adjust.CONTRAST:
            image = contrast * image + (1 - contrast) * (image @ GREY).mean()
        elif step == Adjust.SATURATION:
            image = saturation * image + (1 - saturation) * (image @ GREY)[..., None]
        elif step == Adjust.HUE:
            pixels = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3)]
            turned = [colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in pixels]
            image = np.array(turned).reshape(image.shape)
        image = image.clip(0, 1)
    return image


def scaled_by_hand(image, links):
    image, product = image.copy(), np.ones_like(image)
    for top, bottom, left, right, *betas in links:
        inside = slice(int(top), int(bottom)), slice(int(left), int(right))
        for c, beta in enumerate(betas):
            brightest = image[inside][..., c].max(initial=0)
            if brightest > 0:
                image[inside][..., c] *= beta / brightest
                product[inside][..., c] *= beta / brightest
        if product.min() <= 1e-6:
            break
    return image.clip(0, 1)


def view_by_hand(image, d, scalings):
    """One view of ``[H, W, 3]`` pixel by pixel, from its row of draws; ``[H, W, 3]`` float64."""
    height, width, _ = image.shape
    x = np.zeros(image.shape)
    for i in range(height):
        for j in range(width):
            y, z = i + int(d[Draw.TOP]), (width - 1 - j if d[Draw.MIRRORED] else j) + int(d[Draw.LEFT])
            if 0 <= y < height and 0 <= z < width:
                x[i, j] = image[y, z] / 255
    if d[Draw.SCALING] >= 0:
        x = scaled_by_hand(x, scalings[int(d[Draw.SCALING])])
    order = d[Draw.FIRST : Draw.FOURTH + 1]
    x = adjusted_by_hand(x, order, *d[[Draw.BRIGHTNESS, Draw.CONTRAST, Draw.SATURATION, Draw.TURN]])
    x = (x - MEAN) / STD
    top, bottom, left, right = d[Draw.ERASED_TOP : Draw.ERASED_RIGHT + 1].astype(int)
    x[top:bottom, left:right] = ERASED
    if d[Draw.CHANNELS] == Mix.GREY:
        x = np.repeat((x @ GREY)[..., None], 3, 2)
    elif d[Draw.CHANNELS] != Mix.NONE:
        x = np.repeat(x[..., int(d[Draw.CHANNELS]), None], 3, 2)
    return x


@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_a_view_is_what_its_row_of_draws_says(generator, impl):
    images, draws, rows, scalings = problem(generator, views=len(ORDERS))
    found = ops.augment(images, draws, rows=rows, scalings=scalings, impl=impl)
    draws, scalings = (x.double().numpy() for x in (draws, scalings))
    for b, image in enumerate(images[rows].numpy()):
        expected = view_by_hand(image, draws[b], scalings)
        np.testing.assert_allclose(found[b].permute(1, 2, 0).numpy(), expected, atol=2 * LIMIT)


@pytest.mark.parametrize(
    "sizes",
    [
        dict(views=24),
        dict(views=3, height=1, width=1, chain=1),
        dict(views=9, height=30, width=5, shift=40, chain=32),
        dict(views=8, count=3, height=71, width=35, chain=9),
    ],
    ids=str,
)
def test_cpp_views_are_those_of_the_reference(generator, sizes):
    check_backend("cpp", generator, **sizes)


def test_chains_in_cpp(generator):
    check_chains("cpp", generator)


def test_threads_do_not_change_a_bit(generator):
    images, draws, rows, scalings = problem(generator)
    one = ops.augment(images, draws, rows=rows, scalings=scalings, impl="cpp")
    torch.set_num_threads(3)
    assert torch.equal(ops.augment(images, draws, rows=rows, scalings=scalings, impl="cpp"), one)


@pytest.mark.parametrize("impl", ["reference", "cpp"])
@pytest.mark.parametrize("turn", [-0.5, -0.21, 0.0, 1 / 6, 1 / 3, 0.5])
def test_hue_turns_as_colorsys_turns_it(impl, turn):
    """Also where two channels are equal, and where all are."""
    levels = torch.tensor([0, 100, 255], dtype=torch.uint8)
    image = torch.cartesian_prod(levels, levels, levels).view(1, 9, 3, 3)
    found = ops.augment(image, row(FIRST=Adjust.HUE, TURN=turn), impl=impl)[0].permute(1, 2, 0).double().numpy()
    expected = adjusted_by_hand(image[0].double().numpy() / 255, (Adjust.HUE,), 1, 1, 1, turn)
    np.testing.assert_allclose(found, (expected - MEAN) / STD, atol=LIMIT)


@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_a_chain_of_scalings_ends_after_something_is_scaled_away(impl):
    """The second link makes a product of 1e-7; the third, which would make all white, is not reached."""
    image = torch.full((1, 4, 4, 3), 255, dtype=torch.uint8)
    links = torch.tensor(
        [[0, 4, 0, 2, 0.5, 0.5, 0.5], [0, 1, 0, 1, 0.5, 5e-8, 0.5], [0, 4, 0, 4, 1, 1, 1]], dtype=torch.float32
    )
    for count, expected in ((1, [0.5, 0.5, 0.5]), (2, [0.5, 5e-8, 0.5]), (3, [0.5, 5e-8, 0.5])):
        found = ops.augment(image, row(SCALING=0), scalings=links[None, :count], impl=impl)[0]
        np.testing.assert_allclose(found[:, 0, 0].numpy(), (np.array(expected) - MEAN) / STD, atol=LIMIT)
        np.testing.assert_allclose(found[:, 3, 3].numpy(), (1 - MEAN) / STD, atol=LIMIT)


@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_a_black_channel_is_not_scaled(impl, generator):
    image = photos(generator, 2, 4, 4)[1:]
    links = torch.tensor([[[0, 4, 0, 4, 0.1, 0.1, 0.1]]])
    found = ops.augment(image, row(SCALING=0), scalings=links, impl=impl)[0]
    np.testing.assert_allclose(found[1].numpy(), -MEAN[1] / STD[1], atol=LIMIT)
    assert abs(float(found[0].max()) - (0.1 - MEAN[0]) / STD[0]) < LIMIT


def test_images_may_be_strided_and_stay_as_they_are(generator):
    images = photos(generator, 4, 6, 5)
    strided = images.repeat_interleave(2, 1)[:, ::2]
    before = strided.clone()
    assert not strided.is_contiguous()
    assert torch.equal(ops.augment(strided), ops.augment(images)) and torch.equal(strided, before)


def test_float64_is_the_references(generator):
    images, draws, rows, scalings = problem(generator)
    found = ops.augment(images, draws, rows=rows, scalings=scalings, dtype=torch.float64)
    assert found.dtype == torch.float64
    single = reference.augment(images, draws, rows=rows, scalings=scalings)
    torch.testing.assert_close(found.float(), single, atol=LIMIT, rtol=0)
    with pytest.raises(RuntimeError, match=r"cannot run: it takes torch.float32.*got torch.float64"):
        ops.augment(images, dtype=torch.float64, impl="cpp")


@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_half_precision_is_float32_rounded_to_the_nearest_and_ties_to_even(impl):
    """Every grey at so many brightnesses that some values lie between two neighbours of bfloat16, as near to either."""
    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(1, 1, 1, 3)
    draws = row(FIRST=Adjust.BRIGHTNESS).repeat(1500, 1)
    draws[:, Draw.BRIGHTNESS] = torch.linspace(0.2, 1.8, len(draws))
    options = dict(rows=torch.zeros(len(draws), dtype=torch.int64), impl=impl)
    exact = ops.augment(image, draws, **options)
    assert (exact.view(torch.int32) & 0x1FFFF == 0x8000).any()  # those that go down
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(ops.augment(image, draws, dtype=dtype, **options), exact.to(dtype))


def test_contract(generator):
    images, draws, rows, scalings = problem(generator)
    assert_operator_contract(
        torch.ops.salcr.augment,
        (images, draws, rows, scalings, torch.float32, "auto"),
        (images, None, None, None, torch.bfloat16, "auto"),
    )
    assert_compiles(
        lambda x, d, r, s: ops.augment(x, d, rows=r, scalings=s),
        (images, draws, rows, scalings),
        problem(generator, views=5, count=3, chain=2),
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(images=np.zeros((2, 4, 4, 3))), TypeError, "images must be a torch.Tensor, got ndarray"),
        (dict(images=torch.zeros(2, 4, 4, 3)), TypeError, "images must be uint8, got torch.float32"),
        (dict(images=torch.zeros(2, 3, 4, 4, dtype=torch.uint8)), ValueError, r"images must be \[N, H, W, 3\]"),
        (dict(images=torch.zeros(0, 4, 4, 3, dtype=torch.uint8)), ValueError, "not empty"),
        (dict(draws=torch.zeros(3, 17)), ValueError, "draws must have 2 rows, one a view, got 3"),
        (dict(draws=torch.zeros(2, 16)), ValueError, r"draws must have 17 columns, got shape \(2, 16\)"),
        (dict(draws=torch.zeros(2, 17).double()), TypeError, "draws must be float32"),
        (dict(draws=torch.full((2, 17), torch.nan)), ValueError, "draws has NaN or Inf, first in row 0"),
        (dict(scalings=torch.full((1, 2, 7), torch.inf)), ValueError, "scalings has NaN or Inf, first in row 0"),
        (dict(draws=row(FIRST=5).repeat(2, 1)), ValueError, r"whole numbers in \[0, 4\] in FIRST to FOURTH, got"),
        (dict(draws=row(THIRD=0.5).repeat(2, 1)), ValueError, r"in FIRST to FOURTH, got"),
        (dict(draws=row(FIRST=2, FOURTH=2).repeat(2, 1)), ValueError, "an adjustment twice in row 0"),
        (dict(draws=row(CHANNELS=4).repeat(2, 1)), ValueError, r"whole numbers in \[-1, 3\] in CHANNELS"),
        (dict(draws=row(SCALING=1).repeat(2, 1)), ValueError, r"whole numbers in \[-1, 0\] in SCALING"),
        (dict(scalings=None, draws=row(SCALING=0).repeat(2, 1)), ValueError, r"\[-1, -1\] in SCALING"),
        (dict(draws=None), ValueError, "scalings are given without draws"),
        (dict(scalings=torch.zeros(1, 2, 6)), ValueError, "scalings must have 7 columns"),
        (dict(scalings=torch.zeros(1, 7)), ValueError, "scalings must have 3 axes"),
        (dict(rows=torch.tensor([0, 2])), ValueError, r"rows must be in \[0, 2\), got 0 to 2"),
        (dict(rows=torch.tensor([-1, 0])), ValueError, "got -1 to 0"),
        (dict(rows=torch.tensor([0.0, 1.0])), TypeError, "rows must be int64"),
        (dict(dtype=torch.int8), TypeError, "dtype must be a floating-point dtype"),
        (dict(impl="numba"), ValueError, "has the backends cpp, triton, reference"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    given = dict(images=torch.zeros(2, 4, 4, 3, dtype=torch.uint8), draws=row().repeat(2, 1))
    given |= dict(scalings=torch.zeros(1, 2, 7)) | arguments
    with pytest.raises(error, match=message):
        ops.augment(**given)


@pytest.mark.cuda
@pytest.mark.parametrize(
    "sizes", [dict(views=24), dict(views=48, count=30, height=288, width=144, chain=32)], ids=["small", "large"]
)
def test_kernel(generator, sizes):
    check_backend("triton", generator, device="cuda", **sizes)
