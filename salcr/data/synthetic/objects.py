"""Synthetic objects of many classes: a generic recognition task to pretrain on, the part ImageNet plays.

A class is a few coloured, textured shapes at random places in space; an image is a view of it, in its own light,
before its own backdrop. Half of the classes come in other colours too, as cups and cars do. Nothing is shared with the
pedestrians but the rasteriser: textures, palette, backdrops and random streams are others.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from salcr.data.synthetic.identity import CLOTH_TEXTURES, PALETTE
from salcr.data.synthetic.raster import ELLIPSE, SLAB, TEXTURES, TUBE, render, shape

OBJECT_TEXTURES = tuple(name for name in TEXTURES if name not in CLOTH_TEXTURES)
APART = 0.1
"""Least difference, in some channel, of an object's palette entry from every entry of the pedestrians'."""
OBJECT_PALETTE = tuple(
    color
    for color in itertools.product((0.05, 0.28, 0.5, 0.72, 0.95), repeat=3)
    if all(max(abs(a - b) for a, b in zip(color, other, strict=True)) > APART for other in PALETTE)
)
_CLASS, _INSTANCE = 10, 11

Point = tuple[float, float, float]


@dataclass(frozen=True)
class _Part:
    """One shape of a class; lengths in object heights, x to the right, y down, z to the front, from the middle."""

    kind: int
    start: Point
    end: Point
    widths: tuple[float, float, float]
    flatness: float
    colors: tuple[Point, Point]
    repainted: bool
    texture: int
    period: float
    phase: float
    angle: float
    shade: float


def render_objects(
    num_classes: int, per_class: int, *, height: int, width: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw views of random object classes, in visible light.

    Args:
        num_classes, per_class: how many classes, and how many images of each.
        height, width: of the images, in pixels.
        seed: draws classes and views; a class does not depend on how many there are.

    Returns:
        ``images`` ``[num_classes * per_class, height, width, 3]`` uint8, RGB, and ``labels`` of the same length, int64,
        class by class.

    Raises:
        ValueError: a number below 1.
    """
    for name, value in (("num_classes", num_classes), ("per_class", per_class), ("height", height), ("width", width)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    images = np.empty((num_classes * per_class, height, width, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(num_classes, dtype=np.int64), per_class)
    for label in range(num_classes):
        parts = _sample_class(np.random.default_rng([seed, _CLASS, label]))
        for i in range(per_class):
            rng = np.random.default_rng([seed, _INSTANCE, label, i])
            images[label * per_class + i] = _render_view(parts, rng, height, width)
    return images, labels


def _sample_class(rng: np.random.Generator) -> list[_Part]:
    parts, repainted = [], bool(rng.random() < 0.5)
    for _ in range(rng.integers(4, 10)):
        middle = np.array([rng.normal(0, 0.08), rng.uniform(-0.45, 0.45), rng.normal(0, 0.08)])
        way = rng.normal(size=3) * rng.choice([(1.0, 1.0, 1.0), (0.05, 1.0, 0.05), (1.0, 0.05, 1.0)], p=[0.4, 0.4, 0.2])
        half = 0.5 * rng.uniform(0.08, 0.5) * way / np.linalg.norm(way)
        widths = rng.uniform(0.025, 0.16) * rng.uniform(0.5, 1.2, 3)
        parts.append(
            _Part(
                kind=int(rng.choice([TUBE, SLAB, SLAB, ELLIPSE])),
                start=tuple((middle - half).tolist()),
                end=tuple((middle + half).tolist()),
                widths=tuple(widths.tolist()),
                flatness=rng.uniform(0.4, 1.0),
                colors=(_color(rng), _color(rng)),
                repainted=repainted,
                texture=TEXTURES.index(OBJECT_TEXTURES[rng.integers(len(OBJECT_TEXTURES))]),
                period=float(np.exp(rng.uniform(math.log(0.03), math.log(0.16)))),
                phase=rng.uniform(0, 1000),
                angle=rng.choice([0.0, rng.uniform(0, math.pi)]),
                shade=rng.uniform(0.1, 0.7),
            )
        )
    return parts


def _render_view(parts: list[_Part], rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    frame = min(height, 2 * width)
    scale = frame * rng.uniform(0.75, 1.05)
    yaw, turn, light = rng.uniform(-1.0, 1.0), rng.normal(0, 0.1), rng.uniform(-1, 1)
    cos, sin = math.cos(yaw), math.sin(yaw)
    across, towards = np.array([cos, 0.0, sin]), np.array([-sin, 0.0, cos])
    down = np.array([0.0, 1.0, 0.0])
    middle = 0.5 * np.array([width, height]) + frame * rng.normal(0, 0.03, 2)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    fold_seed, other_paint = int(rng.integers(1 << 16)), rng.random() < 0.5

    def pixel(point: np.ndarray) -> tuple[float, float]:
        return tuple((middle + scale * rotation @ (across @ point, down @ point)).tolist())

    drawn = []
    for part in parts:
        start, end = (np.array(point) + rng.normal(0, 0.01, 3) for point in (part.start, part.end))
        narrow = scale * math.hypot(cos, part.flatness * sin)
        widths = tuple(narrow * w for w in part.widths)
        row = shape(
            part.kind,
            pixel(start),
            pixel(end),
            widths,
            (_color(rng), _color(rng)) if part.repainted and other_paint else part.colors,
            rounding=min(0.02 * scale, *widths),
            texture=part.texture,
            period=part.period * scale,
            phase=(part.phase + yaw * part.widths[1] / part.period, part.phase),
            angle=part.angle,
            shade=part.shade,
            light=light,
            folds=0.15,
            fold_period=0.05 * scale,
            fold_seed=fold_seed,
        )
        drawn.append((float(towards @ (start + end)), row))
    return render(
        _backdrop(rng, height, width) + [row for _, row in sorted(drawn, key=lambda pair: pair[0])],
        height=height,
        width=width,
        gray=False,
        gain=tuple((rng.uniform(0.8, 1.2) * rng.uniform(0.92, 1.08, 3)).tolist()),
        slope=(rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)),
        vignette=rng.uniform(0.0, 0.2),
        blur=rng.uniform(1.5, 5.0) * frame / 1000,
        noise=rng.uniform(0.01, 0.03),
        noise_seed=int(rng.integers(1 << 62)),
    )


def _backdrop(rng: np.random.Generator, height: int, width: int) -> list[tuple[float, ...]]:
    """Ground, horizon and up to two things behind the object, drawn anew for every image."""
    horizon = rng.uniform(0.4, 0.9)
    surfaces = [(0.5, -0.1, horizon, 2.0), (0.5, horizon, 1.1, 2.0)]
    things = rng.uniform((0, -0.1, 0.5, 0.02), (1, 0.6, 1.1, 0.2), (rng.integers(0, 3), 4))
    rows = []
    for x, top, bottom, half in (*surfaces, *things.tolist()):
        ground = 0.4 * np.array(_color(rng)) + 0.6 * rng.uniform(0.15, 0.85)
        pattern = np.clip(ground + rng.uniform(-0.2, 0.2), 0, 1)
        rows.append(
            shape(
                SLAB,
                (x * width, top * height),
                (x * width, bottom * height),
                (half * height,) * 3,
                (tuple(ground.tolist()), tuple(pattern.tolist())),
                texture=TEXTURES.index(OBJECT_TEXTURES[rng.integers(len(OBJECT_TEXTURES))]),
                period=rng.uniform(0.06, 0.3) * height,
                shade=0.2,
                folds=0.15,
                fold_period=0.15 * height,
                fold_seed=int(rng.integers(1 << 16)),
            )
        )
    return rows


def _color(rng: np.random.Generator) -> Point:
    color = np.array(OBJECT_PALETTE[rng.integers(len(OBJECT_PALETTE))]) + rng.normal(0, 0.03, 3)
    return tuple(np.clip(color, 0.03, 0.97).tolist())
