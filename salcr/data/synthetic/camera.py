"""The cameras of a synthetic data set: how each sees people, and the place it looks at."""

import functools
from dataclasses import dataclass

import numpy as np

from salcr.data.synthetic.identity import PALETTE, Paint
from salcr.data.synthetic.raster import SLAB, TEXTURES, shape

FLOOR_TEXTURES = tuple(TEXTURES.index(name) for name in ("plain", "horizontal", "checks", "blotches"))
WALL_TEXTURES = tuple(
    TEXTURES.index(name) for name in ("plain", "vertical", "checks", "plaid", "blotches", "horizontal")
)


@dataclass(frozen=True)
class Camera:
    """One camera.

    Attributes:
        modality: ``"visible"`` or ``"infrared"``.
        view: mean and standard deviation of the angle (radians, 0 = from the front) at which people are seen; three in
            ten walk the other way.
        crop: mean zoom of the bounding box and the standard deviation of its jitter (fractions of the height).
        gain: brightness of each colour channel (infrared: of the first).
        slope: relative brightness gained towards the right and the bottom edge.
        vignette: relative brightness lost in the corners.
        flicker: standard deviation of the exposure from image to image.
        noise: standard deviation of the sensor noise, of the range [0, 1].
        background: number of the place; cameras of one place share its walls and clutter.
        blur: standard deviation of the lens blur, in thousandths of the image height.
    """

    modality: str
    view: tuple[float, float]
    crop: tuple[float, float]
    gain: tuple[float, float, float]
    slope: tuple[float, float]
    vignette: float
    flicker: float
    noise: float
    background: int
    blur: float


def sample_camera(rng: np.random.Generator, modality: str, background: int) -> Camera:
    """Draw a camera of that modality looking at that place."""
    if modality not in ("visible", "infrared"):
        raise ValueError(f"modality must be 'visible' or 'infrared', got {modality!r}")
    infrared = modality == "infrared"
    cast = np.ones(3) if infrared else 1 + rng.uniform(-0.1, 0.1, 3)
    gain = rng.uniform(0.85, 1.15) * cast
    return Camera(
        modality=modality,
        view=(rng.uniform(-np.pi, np.pi), rng.uniform(0.5, 0.9)),
        crop=(rng.uniform(0.95, 1.03), rng.uniform(0.01, 0.03)),
        gain=tuple(gain.tolist()),
        slope=(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15)),
        vignette=rng.uniform(0.1, 0.35) if infrared else rng.uniform(0.0, 0.12),
        flicker=rng.uniform(0.03, 0.08),
        noise=rng.uniform(0.02, 0.04) if infrared else rng.uniform(0.01, 0.025),
        background=background,
        blur=rng.uniform(1.5, 5.0),
    )


def background_rows(camera: Camera, rng: np.random.Generator, height: int, width: int) -> list[tuple[float, ...]]:
    """Rows of :func:`salcr.data.synthetic.raster.shape` for one glimpse of the camera's place."""
    place = _place(camera.background)
    shift, drop = rng.normal(0, 0.12) * height, rng.normal(0, 0.02) * height
    rows = []
    for x, top, bottom, half, ground, pattern, texture, period, seed in place:
        rows.append(
            shape(
                SLAB,
                (0.5 * width + x * height + shift, top * height + (drop if top > 0 else 0)),
                (0.5 * width + x * height + shift, bottom * height + (drop if bottom < 1 else 0)),
                (half * height,) * 3,
                (ground.seen(camera.modality), pattern.seen(camera.modality)),
                texture=texture,
                period=period * height,
                shade=0.0 if half > 1 else 0.2,
                folds=0.15,
                fold_period=0.15 * height,
                fold_seed=seed,
            )
        )
    return rows


@functools.lru_cache(maxsize=64)
def _place(number: int) -> tuple[tuple, ...]:
    """Wall, floor and clutter: (x, top, bottom, half width, ground, pattern, texture, period, seed), in heights."""
    rng = np.random.default_rng([number, 0x91ACE])
    horizon = rng.uniform(0.6, 0.85)
    surfaces = [
        (0.0, -0.1, horizon, 2.0, *_paints(rng, 0.12), _pick(rng, WALL_TEXTURES), rng.uniform(0.1, 0.3)),
        (0.0, horizon, 1.1, 2.0, *_paints(rng, 0.12), _pick(rng, FLOOR_TEXTURES), rng.uniform(0.06, 0.2)),
    ]
    for _ in range(rng.integers(2, 5)):
        middle, half = rng.uniform(-0.45, 0.45), rng.uniform(0.015, 0.12)
        top, bottom = rng.uniform(0.02, 0.5), horizon + rng.uniform(-0.05, 0.12)
        paints = _paints(rng, 0.2)
        surfaces.append((middle, top, bottom, half, *paints, _pick(rng, WALL_TEXTURES), rng.uniform(0.05, 0.15)))
    return tuple((*surface, int(rng.integers(1 << 16))) for surface in surfaces)


def _paints(rng: np.random.Generator, contrast: float) -> tuple[Paint, Paint]:
    """A dull colour and a slightly different one."""
    hue = np.array(PALETTE[rng.integers(len(PALETTE))])
    ground = 0.35 * hue + 0.65 * rng.uniform(0.2, 0.85)
    reflectance = rng.uniform(0.15, 0.8)
    step = rng.choice([-contrast, contrast])
    pattern = np.clip(ground + step, 0, 1)
    return (
        Paint(tuple(ground.tolist()), reflectance),
        Paint(tuple(pattern.tolist()), reflectance + rng.uniform(-contrast, contrast)),
    )


def _pick(rng: np.random.Generator, values: tuple[int, ...]) -> int:
    return values[rng.integers(len(values))]
