"""A small rasteriser: textured, shaded shapes painted one over the other, then a simple camera.

A scene is a list of rows in painter's order, each built with :func:`shape`. Every shape has an axis between two points,
in pixels, and a half width at both ends and in the middle. Edges are smoothed over one pixel by the distance to the
outline. All kernels release the GIL.
"""

import math

import numpy as np

from salcr.jit import njit

TUBE, SLAB, ELLIPSE = 0, 1, 2
TEXTURES = (
    "plain", "horizontal", "vertical", "diagonal", "checks", "plaid", "dots", "gradient", "blocks", "band", "zigzag",
    "blotches", "rings", "triangles", "bricks", "diamonds", "crosses", "waves", "scales", "grain",
)  # fmt: skip
"""By number, as in :func:`_pattern`. Who wears what: ``CLOTH_TEXTURES`` and ``OBJECT_TEXTURES``, which share none."""
FIELDS = 25  # of a row, in the order in which :func:`shape` returns them


def shape(
    kind: int,
    start: tuple[float, float],
    end: tuple[float, float],
    widths: tuple[float, float, float],
    colors: tuple[tuple[float, float, float], tuple[float, float, float]],
    *,
    rounding: float = 1.0,
    texture: int = 0,
    period: float = 8.0,
    phase: tuple[float, float] = (0.0, 0.0),
    angle: float = 0.0,
    shade: float = 0.3,
    light: float = 0.0,
    folds: float = 0.0,
    fold_period: float = 8.0,
    fold_seed: int = 0,
) -> tuple[float, ...]:
    """One row of a scene.

    Args:
        kind: ``TUBE`` (round ends), ``SLAB`` (flat ends, rounded corners) or ``ELLIPSE`` (the axis is its full length).
        start, end: ends of the axis, in pixels, x to the right and y down.
        widths: half widths at start, middle and end, in pixels; the outline is the parabola through them.
        colors: ground and pattern colour, RGB in [0, 1].
        rounding: corner radius of a slab, in pixels.
        texture: index into :data:`TEXTURES`; it runs along the axis ("horizontal" stripes cross it).
        period, phase, angle: of the texture: pixels, fractions of a period (across, along), radians.
        shade, light: how much darker the sides are than the middle, and to which side the light falls, in [-1, 1].
        folds, fold_period, fold_seed: strength, size in pixels and pattern of uneven brightness.
    """
    return (
        kind, *start, *end, *widths, rounding, texture, period, *phase, angle, shade, light, folds, fold_period,
        fold_seed, *colors[0], *colors[1],
    )  # fmt: skip


def render(
    scene: list[tuple[float, ...]],
    *,
    height: int,
    width: int,
    gray: bool,
    gain: tuple[float, float, float],
    slope: tuple[float, float],
    vignette: float,
    blur: float,
    noise: float,
    noise_seed: int,
) -> np.ndarray:
    """Paint a scene over black and photograph it.

    Args:
        scene: rows of :func:`shape`, the farthest first.
        gray: paint only the first colour component, and repeat it in all three channels.
        gain: factor of each channel.
        slope: how much brighter the right edge and the bottom edge are than the centre (relative).
        vignette: how much darker the corners are (relative).
        blur: standard deviation in pixels; 0 for none.
        noise: standard deviation of the sensor noise, of the range [0, 1].
        noise_seed: its pattern.

    Returns:
        ``[height, width, 3]``, uint8.
    """
    channels = 1 if gray else 3
    canvas = np.zeros((height, width, channels), dtype=np.float32)
    _paint(canvas, np.array(scene, dtype=np.float32).reshape(-1, FIELDS))
    if blur > 0.2:
        taps = np.exp(-0.5 * (np.arange(-3, 4) / blur) ** 2).astype(np.float32)
        canvas = _blur(canvas, taps / taps.sum())
    image = np.empty((height, width, 3), dtype=np.uint8)
    _expose(canvas, np.array(gain, dtype=np.float32), slope[0], slope[1], vignette, noise, np.uint64(noise_seed), image)
    return image


_kernel = njit(nogil=True, fastmath=True, error_model="numpy")


@_kernel
def _hash(x, y, seed):
    """32 random bits of a lattice point."""
    h = np.uint32(x) * np.uint32(0x9E3779B1) ^ np.uint32(y) * np.uint32(0x85EBCA77) ^ np.uint32(seed)
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x2C1B3C6D))
    h = np.uint32((h ^ (h >> np.uint32(12))) * np.uint32(0x297A2D39))
    return h ^ (h >> np.uint32(15))


@_kernel
def _lattice_noise(x, y, seed):
    """Smooth noise in [0, 1] whose features are about one unit wide."""
    fx, fy = math.floor(x), math.floor(y)
    ix, iy = np.int64(fx), np.int64(fy)
    u, v = x - fx, y - fy
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    scale = 1.0 / 4294967295.0
    top = _hash(ix, iy, seed) * (1 - u) + _hash(ix + 1, iy, seed) * u
    bottom = _hash(ix, iy + 1, seed) * (1 - u) + _hash(ix + 1, iy + 1, seed) * u
    return (top * (1 - v) + bottom * v) * scale


@_kernel
def _clamp(x, low, high):
    return min(max(x, low), high)


@_kernel
def _wave(x, period):
    """A square wave of period 1 in [0, 1], its flanks about one pixel wide."""
    return _clamp(0.5 + math.sin(6.2831853 * x) * max(1.0, 0.22 * period), 0.0, 1.0)


@_kernel
def _pattern(texture, u, v, h, period):
    """Share of the pattern colour at (u, v), both in periods; h in [0, 1] is the place along the axis.

    What is not told apart by then are motifs that repeat in every cell: (x, y) is the place in its cell, from -½ to ½.
    """
    if texture == 1:  # horizontal
        return _wave(v, period)
    if texture == 2:  # vertical
        return _wave(u, period)
    if texture == 3:  # diagonal
        return _wave(0.7071 * (u + v), period)
    if texture == 4:  # checks
        a, b = 2 * _wave(0.5 * u, period) - 1, 2 * _wave(0.5 * v, period) - 1
        return 0.5 - 0.5 * a * b
    if texture == 5:  # plaid
        return 0.5 * (_wave(0.7 * u, period) + _wave(0.7 * v, period))
    if texture == 6:  # dots
        row = math.floor(v)
        x, y = u + 0.5 * (row % 2), v - row - 0.5
        x = x - math.floor(x) - 0.5
        return _clamp(0.5 + (0.33 - math.sqrt(x * x + y * y)) * period, 0.0, 1.0)
    if texture == 7:  # gradient
        return h
    if texture == 8:  # blocks
        return 1.0 if h > 0.5 else 0.0
    if texture == 9:  # band
        return 1.0 if 0.22 < h < 0.48 else 0.0
    if texture == 10:  # zigzag
        return _wave(v + abs(u - 2 * math.floor(0.5 * u) - 1), period)
    if texture == 11:  # blotches
        return _clamp(0.5 + 6.0 * (_lattice_noise(1.4 * u, 1.4 * v, 0) - 0.5), 0.0, 1.0)
    if texture == 17:  # waves
        return _wave(v + 0.3 * math.sin(6.2831853 * 0.5 * u), period)
    if texture == 19:  # grain
        return _clamp(0.5 + 5.0 * (_lattice_noise(3.0 * u, 0.5 * v, 1) - 0.5), 0.0, 1.0)
    row = math.floor(v)
    shifted = u + 0.5 * (row % 2) if texture in (14, 18) else u
    x, y = shifted - math.floor(shifted) - 0.5, v - row - 0.5
    if texture == 12:  # rings
        return _wave(2.0 * math.sqrt(x * x + y * y), 0.5 * period)
    if texture == 13:  # triangles
        return _clamp(0.5 + (0.5 + y - 2.0 * abs(x)) * 0.5 * period, 0.0, 1.0)
    if texture == 14:  # bricks
        return _clamp(0.5 + (min(0.5 - abs(x), 0.5 - abs(y)) - 0.1) * period, 0.0, 1.0)
    if texture == 15:  # diamonds
        return _clamp(0.5 + (0.42 - abs(x) - abs(y)) * period, 0.0, 1.0)
    if texture == 16:  # crosses
        arm = max(min(0.14 - abs(x), 0.42 - abs(y)), min(0.42 - abs(x), 0.14 - abs(y)))
        return _clamp(0.5 + arm * period, 0.0, 1.0)
    if texture == 18:  # scales
        return _clamp(0.5 + (0.62 - math.sqrt(x * x + (y + 0.5) * (y + 0.5))) * period, 0.0, 1.0)
    return 0.0


@_kernel
def _paint(canvas, scene):
    height, width, channels = canvas.shape
    for i in range(scene.shape[0]):
        row = scene[i]
        kind, ax, ay, bx, by = int(row[0]), row[1], row[2], row[3], row[4]
        w1, wm, w2, rounding = row[5], row[6], row[7], row[8]
        texture, period, phase_u, phase_v = int(row[9]), row[10], row[11], row[12]
        cos, sin = math.cos(row[13]), math.sin(row[13])
        shade, light, folds, fold_period, fold_seed = row[14], row[15], row[16], row[17], row[18]
        length = max(math.hypot(bx - ax, by - ay), np.float32(1e-3))
        ux, uy = (bx - ax) / length, (by - ay) / length
        reach = max(w1, wm, w2) + 1
        left = max(math.floor(min(ax, bx) - reach), 0)
        right = min(math.ceil(max(ax, bx) + reach), width)
        top = max(math.floor(min(ay, by) - reach), 0)
        bottom = min(math.ceil(max(ay, by) + reach), height)
        for y in range(top, bottom):
            for x in range(left, right):
                px, py = x + np.float32(0.5) - ax, y + np.float32(0.5) - ay
                s, t = px * ux + py * uy, px * uy - py * ux
                h = _clamp(s / length, np.float32(0.0), np.float32(1.0))
                w = w1 * (1 - h) * (1 - 2 * h) + wm * 4 * h * (1 - h) + w2 * h * (2 * h - 1)
                if kind == TUBE:
                    rest = s - h * length
                    d = math.sqrt(rest * rest + t * t) - w
                elif kind == SLAB:
                    qx = abs(t) - w + rounding
                    qy = abs(s - 0.5 * length) - 0.5 * length + rounding
                    outside = math.sqrt(max(qx, 0.0) ** 2 + max(qy, 0.0) ** 2)
                    d = outside + min(max(qx, qy), 0.0) - rounding
                else:
                    a = 0.5 * length
                    ex, ey = (s - a) / a, t / wm
                    k0, k1 = math.sqrt(ex * ex + ey * ey), math.sqrt((ex / a) ** 2 + (ey / wm) ** 2)
                    d = k0 * (k0 - 1) / max(k1, np.float32(1e-6)) if k0 > 0.1 else -0.5 * wm
                cover = _clamp(0.5 - d, 0.0, 1.0)
                if cover <= 0:
                    continue
                mix = 0.0
                if texture > 0:
                    u = (cos * t + sin * s) / period + phase_u
                    v = (cos * s - sin * t) / period + phase_v
                    mix = _pattern(texture, u, v, h, period)
                across = _clamp(t / max(w, np.float32(1e-3)), np.float32(-1.0), np.float32(1.0))
                bright = 1 - shade * (0.75 * across * across - 0.5 * light * across)
                if folds > 0:
                    bright += folds * (_lattice_noise(t / fold_period, s / (2 * fold_period), fold_seed) - 0.5)
                for c in range(channels):
                    color = (row[19 + c] * (1 - mix) + row[22 + c] * mix) * bright
                    canvas[y, x, c] += cover * (color - canvas[y, x, c])


@_kernel
def _blur(canvas, taps):
    height, width, channels = canvas.shape
    half = taps.shape[0] // 2
    across, down = np.empty_like(canvas), np.empty_like(canvas)
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                total = np.float32(0.0)
                for k in range(-half, half + 1):
                    total += taps[k + half] * canvas[y, min(max(x + k, 0), width - 1), c]
                across[y, x, c] = total
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                total = np.float32(0.0)
                for k in range(-half, half + 1):
                    total += taps[k + half] * across[min(max(y + k, 0), height - 1), x, c]
                down[y, x, c] = total
    return down


@_kernel
def _expose(canvas, gain, slope_x, slope_y, vignette, noise, noise_seed, image):
    height, width, channels = canvas.shape
    state = noise_seed
    for y in range(height):
        v = 2 * (y + 0.5) / height - 1
        for x in range(width):
            u = 2 * (x + 0.5) / width - 1
            light = 1 + slope_x * u + slope_y * v - 0.5 * vignette * (u * u + v * v)
            for c in range(channels):
                state += np.uint64(0x9E3779B97F4A7C15)
                z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                z = z ^ (z >> np.uint64(31))
                mask, total = np.uint64(0xFFFF), 0.0
                for k in range(4):
                    total += np.float64((z >> np.uint64(16 * k)) & mask)
                normal = (total / 65535.0 - 2.0) * 1.7320508
                value = canvas[y, x, c] * gain[c] * light + noise * normal
                image[y, x, c] = np.uint8(_clamp(255.0 * value + 0.5, 0.0, 255.0))
            for c in range(channels, 3):
                image[y, x, c] = image[y, x, 0]
