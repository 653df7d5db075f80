"""What a synthetic person looks like: body, gait, hair, clothes, shoes and what they carry.

Every surface has a colour, which only the visible camera sees, and a reflectance, which only the infrared camera sees.
What is bright in one is more often than not bright in the other. Shape and texture are common to both.
"""

from dataclasses import dataclass

import numpy as np

from salcr.data.synthetic.raster import TEXTURES

UPPER = ("sleeveless", "t-shirt", "shirt", "long shirt", "jacket", "hoodie", "coat")
LOWER = ("trousers", "wide trousers", "leggings", "cropped", "shorts", "skirt", "long skirt")
HAIR = ("bald", "short", "medium", "long", "ponytail", "bun", "afro")
BAGS = ("none", "backpack", "crossbody", "handbag", "tote", "suitcase")
HATS = ("none", "cap", "beanie", "wide brim")
LOGOS = ("none", "disc", "square", "bar")
CLOTH_TEXTURES = TEXTURES[: TEXTURES.index("blotches") + 1]
TEXTURE_PERIODS = (0.045, 0.065, 0.095, 0.135)
MIN_CONTRAST = 0.25
"""Least difference in infrared reflectance between the two paints of a garment."""
LIKENESS = 0.4
"""Share of a surface's luminance in its reflectance; the rest is drawn independently of its colour."""
SAME_WAY = 0.7
"""How often a garment's pattern is brighter than its ground, or darker, in both modalities."""

PALETTE = (
    (0.08, 0.08, 0.09), (0.25, 0.25, 0.27), (0.48, 0.48, 0.50), (0.72, 0.72, 0.72), (0.93, 0.93, 0.90),
    (0.70, 0.10, 0.12), (0.90, 0.30, 0.25), (0.45, 0.08, 0.15), (0.93, 0.55, 0.15), (0.62, 0.38, 0.18),
    (0.38, 0.24, 0.14), (0.82, 0.70, 0.48), (0.95, 0.85, 0.25), (0.45, 0.50, 0.18), (0.20, 0.45, 0.20),
    (0.50, 0.78, 0.40), (0.10, 0.55, 0.50), (0.45, 0.82, 0.80), (0.10, 0.16, 0.40), (0.15, 0.35, 0.75),
    (0.50, 0.68, 0.92), (0.38, 0.20, 0.58), (0.70, 0.52, 0.85), (0.88, 0.35, 0.60), (0.96, 0.72, 0.78),
)  # fmt: skip
SKIN = ((0.95, 0.78, 0.66), (0.86, 0.65, 0.50), (0.70, 0.48, 0.34), (0.48, 0.31, 0.21), (0.32, 0.20, 0.14))
HAIR_COLORS = ((0.06, 0.05, 0.05), (0.22, 0.13, 0.08), (0.42, 0.26, 0.14), (0.78, 0.62, 0.35), (0.60, 0.22, 0.10),
               (0.62, 0.62, 0.62))  # fmt: skip


@dataclass(frozen=True)
class Paint:
    """A surface: ``color`` (RGB in [0, 1]) in visible light, ``reflectance`` in [0, 1] in infrared."""

    color: tuple[float, float, float]
    reflectance: float

    def seen(self, modality: str) -> tuple[float, float, float]:
        """Its RGB in an image of that modality."""
        return self.color if modality == "visible" else (self.reflectance,) * 3


@dataclass(frozen=True)
class Garment:
    """A piece of clothing: its cut, its texture in two paints, and its material (sheen and folds)."""

    kind: str
    ground: Paint
    pattern: Paint
    texture: int
    period: float
    phase: float
    sheen: float
    folds: float


@dataclass(frozen=True)
class Identity:
    """Appearance of one person. Lengths are fractions of the standing height."""

    stature: float
    shoulder: float
    hip: float
    depth: float
    limb: float
    head: float
    leg: float
    stride: float
    swing: float
    lean: float
    skin: Paint
    hair: str
    hair_paint: Paint
    upper: Garment
    logo: str
    lower: Garment
    lower_width: float
    inner: Paint
    shoes: Paint
    boots: bool
    bag: str
    bag_paint: Paint
    bag_size: float
    hat: str
    hat_paint: Paint
    scarf: bool
    scarf_paint: Paint


def sample_identity(rng: np.random.Generator) -> Identity:
    """Draw the appearance of one person."""
    return Identity(
        stature=rng.uniform(0.86, 1.0),
        shoulder=rng.uniform(0.095, 0.145),
        hip=rng.uniform(0.075, 0.125),
        depth=rng.uniform(0.055, 0.10),
        limb=rng.uniform(0.8, 1.3),
        head=rng.uniform(0.9, 1.15),
        leg=rng.uniform(0.46, 0.53),
        stride=rng.uniform(0.15, 0.5),
        swing=rng.uniform(0.1, 0.6),
        lean=rng.normal(0.0, 0.03),
        skin=Paint(SKIN[rng.integers(len(SKIN))], rng.uniform(0.5, 0.65)),
        hair=_choose(rng, HAIR),
        hair_paint=Paint(HAIR_COLORS[rng.integers(len(HAIR_COLORS))], rng.uniform(0.1, 0.75)),
        upper=_sample_garment(rng, UPPER, plain=0.12),
        logo=_choose(rng, LOGOS, first=0.6),
        lower=_sample_garment(rng, LOWER, plain=0.3),
        lower_width=rng.uniform(0.85, 1.25),
        inner=_sample_paint(rng),
        shoes=_sample_paint(rng),
        boots=bool(rng.random() < 0.3),
        bag=_choose(rng, BAGS, first=0.25),
        bag_paint=_sample_paint(rng),
        bag_size=rng.uniform(0.8, 1.25),
        hat=_choose(rng, HATS, first=0.6),
        hat_paint=_sample_paint(rng),
        scarf=bool(rng.random() < 0.2),
        scarf_paint=_sample_paint(rng),
    )


def _choose(rng: np.random.Generator, names: tuple[str, ...], *, first: float | None = None) -> str:
    """One of the names, evenly, or the first with probability ``first`` and else one of the others."""
    if first is None:
        return names[rng.integers(len(names))]
    return names[0] if rng.random() < first else names[rng.integers(1, len(names))]


def _sample_paint(rng: np.random.Generator) -> Paint:
    jitter = rng.normal(0, 0.03, 3)
    color = np.clip(np.array(PALETTE[rng.integers(len(PALETTE))]) + jitter, 0.03, 0.97)
    return Paint(tuple(color.tolist()), LIKENESS * _luminance(color) + (1 - LIKENESS) * rng.uniform(0.08, 0.92))


def _sample_garment(rng: np.random.Generator, kinds: tuple[str, ...], *, plain: float) -> Garment:
    ground = _sample_paint(rng)
    pattern = _sample_paint(rng)
    while abs(_luminance(pattern.color) - _luminance(ground.color)) < 0.18:
        pattern = _sample_paint(rng)
    brighter = (_luminance(pattern.color) > _luminance(ground.color)) == (rng.random() < SAME_WAY)
    room = [0.95 - ground.reflectance, ground.reflectance - 0.05]
    way = int(not brighter) if room[int(not brighter)] >= MIN_CONTRAST else int(brighter)
    contrast = rng.uniform(MIN_CONTRAST, min(0.55, room[way])) * (1 - 2 * way)
    return Garment(
        kind=_choose(rng, kinds),
        ground=ground,
        pattern=Paint(pattern.color, float(ground.reflectance + contrast)),
        texture=TEXTURES.index(_choose(rng, CLOTH_TEXTURES, first=plain)),
        period=TEXTURE_PERIODS[rng.integers(len(TEXTURE_PERIODS))],
        phase=rng.uniform(0, 1000),
        sheen=rng.uniform(0.25, 0.6),
        folds=rng.uniform(0.05, 0.3),
    )


def _luminance(color: tuple[float, float, float]) -> float:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
