"""Tables of draws with everything in them, and what every backend of augment has to make of them."""

import itertools

import torch

from salcr import ops
from salcr.ops.augmentation import Adjust, Draw, Mix

ORDERS = list(itertools.permutations((Adjust.BRIGHTNESS, Adjust.CONTRAST, Adjust.SATURATION, Adjust.HUE)))
LIMIT = 1e-5  # of differences between backends in float32


def photos(generator, count, height, width):
    """Noise, but for an image that is black, one without green, one of few grey levels and one that is white."""
    images = torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)
    for image, change in zip(images, ("black", "no green", "grey", "white"), strict=False):
        if change in ("black", "white"):
            image[:] = 255 * (change == "white")
        elif change == "no green":
            image[..., 1] = 0
        else:
            image[:] = image[..., :1] // 64 * 64
    return images


def rectangles(generator, count, height, width):
    """``[count, 4]``: some empty, some as large as the image."""
    corners = [torch.randint(0, size + 1, (2, count), generator=generator).sort(0)[0] for size in (height, width)]
    found = torch.cat(corners).T.float()
    found[0], found[-1] = 0, torch.tensor([0.0, height, 0.0, width])
    return found


def problem(generator, views=24, count=7, height=13, width=9, chain=4, shift=4):
    """``(images, draws, rows, scalings)``; view b does its adjustments in the order b of ``ORDERS``."""
    images, draws = photos(generator, count, height, width), torch.zeros(views, len(Draw))
    draws[:, [Draw.TOP, Draw.LEFT]] = torch.randint(-shift, shift + 1, (views, 2), generator=generator).float()
    draws[:, Draw.MIRRORED] = (torch.arange(views) % 2).float()
    draws[:, Draw.FIRST : Draw.FOURTH + 1] = torch.tensor([ORDERS[b % len(ORDERS)] for b in range(views)]).float()
    factors = 0.5 + torch.rand(views, 3, generator=generator)
    draws[:, Draw.BRIGHTNESS : Draw.SATURATION + 1] = factors
    draws[:, Draw.TURN] = torch.rand(views, generator=generator) - 0.5
    draws[:, Draw.ERASED_TOP : Draw.ERASED_RIGHT + 1] = rectangles(generator, views, height, width)
    draws[:, Draw.CHANNELS] = (torch.arange(views) % len(Mix) - 1).float()
    draws[:, Draw.SCALING] = -1
    scaled = torch.arange(0, views, 3)
    draws[scaled, Draw.SCALING] = torch.randperm(len(scaled), generator=generator).float()
    betas = torch.rand(len(scaled) * chain, 3, generator=generator)
    betas[::3] *= 1e-4  # so that some chains end before their last link
    links = torch.cat([rectangles(generator, len(betas), height, width), betas], 1)
    rows = torch.randint(0, count, (views,), generator=generator)
    return images, draws, rows, links.view(len(scaled), chain, 7)


def check_views(impl, images, draws, **options):
    """Against the reference; returns the views."""
    expected = ops.augment(images, draws, **options, impl="reference")
    found = ops.augment(images, draws, **options, impl=impl)
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - expected).abs().max() <= LIMIT
    return found


def check_chains(impl, generator):
    """Of views that hide nothing of them: corners between pixels, products near the one that ends a chain."""
    images = torch.randint(0, 256, (3, 13, 9, 3), generator=generator, dtype=torch.uint8)
    images[1], images[2] = 255, 10
    everything, nothing = [0, 13, 0, 9], [9, 2, 8, 1]
    chains = torch.ones(5, 4, 7)
    chains[:, :, :4] = torch.tensor(everything)
    chains[:2, :, 4:] = 0.2 + 0.8 * torch.rand(2, 4, 3, generator=generator)
    chains[0, 1, :4], chains[0, 2, :4] = torch.tensor([[2.5, 10.5, 0.5, 6.5], [-1.5, 8.2, 3.2, 99]])
    chains[1, 1, :4], chains[1, 2, :4] = torch.tensor([[*nothing], [6.9, 12.9, -3, 7.0]])
    chains[2:, 1, 5] = torch.tensor([5e-6, 1e-6, 2e-7])  # of white, white, and of a product of 25.5
    draws = torch.zeros(6, len(Draw))
    draws[:, Draw.CHANNELS], draws[:, Draw.SCALING] = Mix.NONE, torch.tensor([1, -1, 0, 2, 3, 4])
    rows = torch.tensor([0, 0, 0, 1, 1, 2])
    found = check_views(impl, images, draws, rows=rows, scalings=chains)
    green = found[3:, 1]
    assert green[0].min() > 2 > green[1].max() and green[2].min() > 2  # the second ends before its last links


def check_backend(impl, generator, device="cpu", **sizes):
    """With and without each of the optional arguments against the reference, and half precision against float32."""
    images, draws, rows, scalings = problem(generator, **sizes)
    unscaled = draws.clone()
    unscaled[:, Draw.SCALING] = -1
    images, draws, rows, scalings, unscaled = (x.to(device) for x in (images, draws, rows, scalings, unscaled))
    firsts, shared = draws[: len(images)], draws.clone()
    shared[:, Draw.SCALING] = 0  # one chain of all views, which programs walk at the same time
    check_views(impl, images, draws, rows=rows, scalings=scalings)
    check_views(impl, images, shared, rows=rows, scalings=scalings)
    check_views(impl, images, unscaled, rows=rows)
    check_views(impl, images[: len(firsts)], firsts, scalings=scalings)
    check_views(impl, images, None, rows=rows)
    found = check_views(impl, images, None)
    halves = (torch.float16,) if impl == "triton" and device == "cpu" else (torch.float16, torch.bfloat16)
    for dtype in halves:
        assert torch.equal(ops.augment(images, dtype=dtype, impl=impl), found.to(dtype))
    whole = dict(rows=rows[:3], scalings=scalings, impl=impl)
    half = ops.augment(images, draws[:3], **whole, dtype=halves[-1])
    assert torch.equal(half, ops.augment(images, draws[:3], **whole).to(halves[-1]))
