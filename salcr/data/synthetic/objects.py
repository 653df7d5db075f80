"""Synthetic objects of many classes: a generic recognition task to pretrain on, the part ImageNet plays.

A class is a fixed arrangement of a few coloured and textured shapes, about twice as high as wide. None of it is a
person: shapes, sizes, places, colours and textures are all random.
"""

import math
from dataclasses import dataclass

import numpy as np

from salcr.data.synthetic.camera import background_rows, sample_camera
from salcr.data.synthetic.identity import PALETTE
from salcr.data.synthetic.raster import ELLIPSE, SLAB, TEXTURES, TUBE, render, shape

_CLASS, _INSTANCE = 10, 11
_PLACES = 1 << 10


@dataclass(frozen=True)
class _Part:
    """One shape of a class; lengths in object heights, from the middle of the object."""

    kind: int
    start: tuple[float, float]
    end: tuple[float, float]
    widths: tuple[float, float, float]
    colors: tuple[tuple[float, float, float], tuple[float, float, float]]
    texture: int
    period: float
    phase: float
    angle: float
    shade: float


def render_objects(
    num_classes: int, per_class: int, *, height: int, width: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw instances of random object classes.

    Args:
        num_classes, per_class: how many classes, and how many images of each.
        height, width: of the images, in pixels.
        seed: draws classes and instances; a class does not depend on how many there are.

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
            images[label * per_class + i] = _render_instance(parts, rng, height, width)
    return images, labels


def _sample_class(rng: np.random.Generator) -> list[_Part]:
    parts = []
    count = rng.integers(4, 10)
    for i in range(count):
        middle = np.array([rng.normal(0, 0.07), (i + rng.random()) / count - 0.5])
        length = rng.uniform(0.08, 0.5)
        angle = rng.choice([0.0, math.pi / 2, rng.uniform(-math.pi, math.pi)], p=[0.45, 0.25, 0.3])
        half = 0.5 * length * np.array([math.sin(angle), math.cos(angle)])
        widths = rng.uniform(0.02, 0.16) * rng.uniform(0.5, 1.2, 3)
        parts.append(
            _Part(
                kind=int(rng.choice([TUBE, SLAB, SLAB, ELLIPSE])),
                start=tuple((middle - half).tolist()),
                end=tuple((middle + half).tolist()),
                widths=tuple(widths.tolist()),
                colors=(_color(rng), _color(rng)),
                texture=int(rng.integers(len(TEXTURES))) if rng.random() < 0.8 else 0,
                period=float(np.exp(rng.uniform(math.log(0.03), math.log(0.16)))),
                phase=rng.uniform(0, 1000),
                angle=rng.choice([0.0, rng.uniform(0, math.pi)]),
                shade=rng.uniform(0.1, 0.7),
            )
        )
    return parts


def _render_instance(parts: list[_Part], rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    camera = sample_camera(rng, "visible", int(rng.integers(_PLACES)))
    frame = min(height, 2 * width)
    scale = frame * rng.uniform(0.75, 1.05)
    squeeze, turn, mirror = rng.uniform(0.75, 1.2), rng.normal(0, 0.1), rng.choice([-1, 1])
    middle = 0.5 * np.array([width, height]) + frame * rng.normal(0, 0.03, 2)
    matrix = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    matrix = matrix @ np.diag([mirror * squeeze, 1.0])
    light, fold_seed = rng.uniform(-1, 1), int(rng.integers(1 << 16))
    scene = background_rows(camera, rng, height, width)
    for part in parts:
        wobble = rng.normal(0, 0.012, 2)
        widths = tuple(scale * w * squeeze for w in part.widths)
        scene.append(
            shape(
                part.kind,
                tuple((middle + matrix @ (part.start + wobble)).tolist()),
                tuple((middle + matrix @ (part.end + wobble)).tolist()),
                widths,
                part.colors,
                rounding=min(0.02 * scale, *widths),
                texture=part.texture,
                period=part.period * scale,
                phase=(part.phase, part.phase),
                angle=mirror * part.angle,
                shade=part.shade,
                light=light,
                folds=0.15,
                fold_period=0.05 * scale,
                fold_seed=fold_seed,
            )
        )
    return render(
        scene,
        height=height,
        width=width,
        gray=False,
        gain=camera.gain,
        slope=camera.slope,
        vignette=camera.vignette,
        blur=camera.blur * frame / 1000,
        noise=camera.noise,
        noise_seed=int(rng.integers(1 << 62)),
    )


def _color(rng: np.random.Generator) -> tuple[float, float, float]:
    color = np.array(PALETTE[rng.integers(len(PALETTE))]) + rng.normal(0, 0.03, 3)
    return tuple(np.clip(color, 0.03, 0.97).tolist())
