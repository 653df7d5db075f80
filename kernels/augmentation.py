"""Views of uint8 images for the network: one program a view, one launch for all.

Source: docs/method.md, "Augmentation".

A program walks the pixels of its view in blocks: three bytes are read from the image (of a batch, or of the store of
the whole data set), cropping and mirroring are arithmetic on their address, the four adjustments, normalising, erasing
and the mixing of channels happen in registers, and three numbers are written, channels last. Contrast needs the mean
grey of the view as the adjustments before it leave it, so a program walks its pixels once more before it does contrast;
the bytes then come from cache. Floor: 3 bytes read and 12 (float32) or 6 (half precision) written a pixel and view; at
432 views of 288×144 that is 54 + 215 MB, 0.09 ms at an H100's copy rate. Some 90 operations a pixel are far below that.

Local linear scaling is a chain of rectangles, each of which needs the maxima that the one before left behind. The
products of the factors are float32 scratch [B, H·W, 3], of each view its own, since two may have one chain; a program
reads it twice and writes it once a rectangle, on average 11.3 rectangles of 21 % of the image: 72 views of 288×144 that
have a chain touch 36 MB, which an H100's cache holds, and 72 programs walk them at a time. Divisions and products are
rounded as in the reference, step for step, because they decide when a chain ends.

Compiled for sm_90 with 8 warps it takes at most 80 registers with chains, 48 without and 29 for plain images, spills
nothing and so leaves room for three, five and eight programs on a multiprocessor. It has not been measured on one.
Images and chains are found by int64 offsets from the beginning of their store.
"""

import torch
import triton
import triton.language as tl

from .launch import at_most_one_each, configuration, on_device

TOP, LEFT, MIRRORED, FIRST = (tl.constexpr(column) for column in range(4))  # of salcr.reference.augmentation.Draw
BRIGHTNESS, CONTRAST, SATURATION, TURN = (tl.constexpr(column) for column in range(7, 11))
ERASED_TOP, ERASED_BOTTOM, ERASED_LEFT, ERASED_RIGHT = (tl.constexpr(column) for column in range(11, 15))
CHANNELS, SCALING, COLUMNS = (tl.constexpr(column) for column in range(15, 18))
LINK = tl.constexpr(7)  # numbers of a rectangle in a chain
BETA = tl.constexpr(4)  # the first of its factors
ADJUST_BRIGHTNESS, ADJUST_CONTRAST, ADJUST_SATURATION, ADJUST_HUE = (tl.constexpr(n) for n in range(1, 5))


@triton.jit
def grey_of(red, green, blue):
    return red * 0.2989 + green * 0.5870 + blue * 0.1140


@triton.jit
def unit(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def channel(value, chroma, phase):
    phase -= 6.0 * tl.floor(phase / 6.0)
    return value - chroma * unit(tl.minimum(phase, 4.0 - phase))


@triton.jit
def bytes_of(image, draw, pixel, height, width, valid):
    """Channels over 255 of the pixels of a view, black outside of the image."""
    x, y = pixel % width, pixel // width
    x = tl.where(tl.load(draw + MIRRORED).to(tl.int32) != 0, width - 1 - x, x) + tl.load(draw + LEFT).to(tl.int32)
    y += tl.load(draw + TOP).to(tl.int32)
    seen = valid & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    place = image + (y * width + x) * 3
    red = tl.div_rn(tl.load(place, mask=seen, other=0).to(tl.float32), 255.0)
    green = tl.div_rn(tl.load(place + 1, mask=seen, other=0).to(tl.float32), 255.0)
    blue = tl.div_rn(tl.load(place + 2, mask=seen, other=0).to(tl.float32), 255.0)
    return red, green, blue


@triton.jit
def adjusted(red, green, blue, step, draw, mean):
    """One adjustment, the same for all pixels of a program."""
    if step == ADJUST_BRIGHTNESS:
        factor = tl.load(draw + BRIGHTNESS)
        red, green, blue = unit(red * factor), unit(green * factor), unit(blue * factor)
    if step == ADJUST_CONTRAST:
        factor = tl.load(draw + CONTRAST)
        red, green, blue = mean + factor * (red - mean), mean + factor * (green - mean), mean + factor * (blue - mean)
        red, green, blue = unit(red), unit(green), unit(blue)
    if step == ADJUST_SATURATION:
        factor, grey = tl.load(draw + SATURATION), grey_of(red, green, blue)
        red, green, blue = grey + factor * (red - grey), grey + factor * (green - grey), grey + factor * (blue - grey)
        red, green, blue = unit(red), unit(green), unit(blue)
    if step == ADJUST_HUE:
        value, low = tl.maximum(red, tl.maximum(green, blue)), tl.minimum(red, tl.minimum(green, blue))
        chroma = value - low
        difference = tl.where(value == red, green - blue, tl.where(value == green, blue - red, red - green))
        sector = tl.where(value == red, 0.0, tl.where(value == green, 2.0, 4.0))
        hue = sector + difference / tl.where(chroma > 0, chroma, 1.0) + 6.0 * tl.load(draw + TURN)
        red, green, blue = (
            channel(value, chroma, hue + 5),
            channel(value, chroma, hue + 3),
            channel(value, chroma, hue + 1),
        )
    return red, green, blue


@triton.jit
def pixels_before(image, draw, product, scaled, pixel, height, width, mean, STEPS: tl.constexpr, SCALE: tl.constexpr):
    """Pixels after local scaling and the first ``STEPS`` adjustments; ``mean`` is that of the contrast among them."""
    valid = pixel < height * width
    red, green, blue = bytes_of(image, draw, pixel, height, width, valid)
    if SCALE:
        changed, place = valid & scaled, product + pixel * 3
        red = unit(red * tl.load(place, mask=changed, other=1.0))
        green = unit(green * tl.load(place + 1, mask=changed, other=1.0))
        blue = unit(blue * tl.load(place + 2, mask=changed, other=1.0))
    for place in tl.static_range(STEPS):
        red, green, blue = adjusted(red, green, blue, tl.load(draw + FIRST + place), draw, mean)
    return red, green, blue


@triton.jit
def scale_locally(image, draw, links, product, height, width, CHAIN: tl.constexpr, BLOCK: tl.constexpr):
    """Products of the factors of a chain of rectangles, for every pixel and channel of a view."""
    block = tl.arange(0, BLOCK)
    for start in range(0, height * width, BLOCK):
        place, valid = product + (start + block) * 3, start + block < height * width
        for c in tl.static_range(3):
            tl.store(place + c, tl.full([BLOCK], 1.0, tl.float32), mask=valid)
    least = 1.0
    for link in range(CHAIN):
        if least > 1e-6:
            top, bottom = tl.load(links + link * LINK), tl.load(links + link * LINK + 1)
            left, right = tl.load(links + link * LINK + 2), tl.load(links + link * LINK + 3)
            top = tl.ceil(tl.maximum(top, 0.0)).to(tl.int32)
            left = tl.ceil(tl.maximum(left, 0.0)).to(tl.int32)
            tall = tl.maximum(tl.ceil(tl.minimum(bottom, height)).to(tl.int32) - top, 0)
            wide = tl.maximum(tl.ceil(tl.minimum(right, width)).to(tl.int32) - left, 0)
            tl.debug_barrier()  # the products were written by other threads
            brightest_red, brightest_green, brightest_blue = 0.0, 0.0, 0.0
            for start in range(0, tall * wide, BLOCK):
                inside = start + block < tall * wide
                pixel = (top + (start + block) // wide) * width + left + (start + block) % wide
                red, green, blue = bytes_of(image, draw, pixel, height, width, inside)
                place = product + pixel * 3
                red *= tl.load(place, mask=inside, other=0.0)
                green *= tl.load(place + 1, mask=inside, other=0.0)
                blue *= tl.load(place + 2, mask=inside, other=0.0)
                brightest_red = tl.maximum(brightest_red, tl.max(red, 0))
                brightest_green = tl.maximum(brightest_green, tl.max(green, 0))
                brightest_blue = tl.maximum(brightest_blue, tl.max(blue, 0))
            tl.debug_barrier()
            for c in tl.static_range(3):
                brightest = brightest_red if c == 0 else (brightest_green if c == 1 else brightest_blue)
                if brightest > 0:
                    factor = tl.div_rn(tl.load(links + link * LINK + BETA + c), brightest)
                    for start in range(0, tall * wide, BLOCK):
                        inside = start + block < tall * wide
                        pixel = (top + (start + block) // wide) * width + left + (start + block) % wide
                        place = product + pixel * 3 + c
                        changed = tl.load(place, mask=inside, other=1.0) * factor
                        tl.store(place, changed, mask=inside)
                        least = tl.minimum(least, tl.min(tl.where(inside, changed, 1.0), 0))
    tl.debug_barrier()


@triton.jit
def augment_kernel(
    images,
    draws,
    rows,
    scalings,
    products,
    out,
    height,
    width,
    DRAWS: tl.constexpr,
    ROWS: tl.constexpr,
    CHAIN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    view, size = tl.program_id(0).to(tl.int64), height * width
    image = images + (tl.load(rows + view) if ROWS else view) * size * 3
    draw, out = draws + view * COLUMNS, out + view * size * 3
    block = tl.arange(0, BLOCK)
    scaled, mean, product = False, 0.0, products
    if CHAIN > 0:
        chain = tl.load(draw + SCALING).to(tl.int64)
        scaled = chain >= 0
        if scaled:
            product = products + view * size * 3
            scale_locally(image, draw, scalings + chain * (CHAIN * LINK), product, height, width, CHAIN, BLOCK)
    if DRAWS:
        for steps in tl.static_range(4):
            if tl.load(draw + FIRST + steps) == ADJUST_CONTRAST:
                total = tl.full([BLOCK], 0.0, tl.float32)
                for start in range(0, size, BLOCK):
                    red, green, blue = pixels_before(
                        image, draw, product, scaled, start + block, height, width, mean, steps, CHAIN > 0
                    )
                    total += grey_of(red, green, blue)  # 0 behind the last pixel
                mean = tl.sum(total, 0) / size
    for start in range(0, size, BLOCK):
        pixel = start + block
        valid = pixel < size
        if DRAWS:
            red, green, blue = pixels_before(image, draw, product, scaled, pixel, height, width, mean, 4, CHAIN > 0)
        else:
            place = image + pixel * 3
            red = tl.load(place, mask=valid, other=0).to(tl.float32) / 255.0
            green = tl.load(place + 1, mask=valid, other=0).to(tl.float32) / 255.0
            blue = tl.load(place + 2, mask=valid, other=0).to(tl.float32) / 255.0
        red, green, blue = (red - 0.485) / 0.229, (green - 0.456) / 0.224, (blue - 0.406) / 0.225
        if DRAWS:
            y, x = (pixel // width).to(tl.float32), (pixel % width).to(tl.float32)
            erased = (y >= tl.load(draw + ERASED_TOP)) & (y < tl.load(draw + ERASED_BOTTOM))
            erased = erased & (x >= tl.load(draw + ERASED_LEFT)) & (x < tl.load(draw + ERASED_RIGHT))
            red = tl.where(erased, 0.4914, red)
            green = tl.where(erased, 0.4822, green)
            blue = tl.where(erased, 0.4465, blue)
            mix = tl.load(draw + CHANNELS)
            if mix >= 0:
                one = tl.where(
                    mix == 0, red, tl.where(mix == 1, green, tl.where(mix == 2, blue, grey_of(red, green, blue)))
                )
                red, green, blue = one, one, one
        place = out + pixel * 3
        tl.store(place, red.to(out.dtype.element_ty), mask=valid)
        tl.store(place + 1, green.to(out.dtype.element_ty), mask=valid)
        tl.store(place + 2, blue.to(out.dtype.element_ty), mask=valid)


def augment(
    images: torch.Tensor,
    draws: torch.Tensor | None,
    rows: torch.Tensor | None,
    scalings: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """``[B, 3, H, W]`` of ``dtype``, channels last.

    Args:
        images: ``[N, H, W, 3]``, uint8, contiguous.
        draws: ``[B, 17]``, float32, contiguous, or None.
        rows: ``[B]``, int64, or None for view b of image b.
        scalings: ``[C, R, 7]``, float32, contiguous, or None.
        dtype: float32, bfloat16 or float16.
    """
    views, (height, width) = len(images) if rows is None else len(rows), images.shape[1:3]
    out = torch.empty(views, height, width, 3, dtype=dtype, device=images.device)
    chain = 0 if scalings is None else scalings.shape[1]
    t = configuration("augmentation.chains" if chain else "augmentation", images.device)
    at_most_one_each(t["num_warps"], t["BLOCK"])
    if draws is None:  # needs less than any limit, which would only let it take more
        t.pop("maxnreg", None)
    with on_device(images):
        products = torch.empty(views if chain else 0, height * width, 3, dtype=torch.float32, device=images.device)
        augment_kernel[views,](
            images,
            *(images if x is None else x for x in (draws, rows, scalings)),  # what there is none of is not read
            products,
            out,
            height,
            width,
            DRAWS=draws is not None,
            ROWS=rows is not None,
            CHAIN=chain,
            **t,
        )
    return out.permute(0, 3, 1, 2)
