"""From an identity and a pose to shapes: a jointed figure, turned, projected and sorted by depth."""

import math

import numpy as np

from salcr.data.synthetic.identity import Garment, Identity, Paint
from salcr.data.synthetic.raster import ELLIPSE, SLAB, TUBE, shape

Point = tuple[float, float, float]

SLEEVE = {
    "sleeveless": 0.0,
    "t-shirt": 0.75,
    "shirt": 2.0,
    "long shirt": 2.0,
    "jacket": 2.0,
    "hoodie": 2.0,
    "coat": 2.0,
}
HEM = {"sleeveless": 0.0, "t-shirt": -0.01, "shirt": -0.03, "long shirt": -0.11, "jacket": -0.05, "hoodie": -0.03,
       "coat": -0.26}  # fmt: skip
LEG_END = {"trousers": 0.05, "wide trousers": 0.04, "leggings": 0.05, "cropped": 0.14, "shorts": 0.31, "skirt": 0.9,
           "long skirt": 0.9}  # fmt: skip
SKIRT_END = {"skirt": 0.31, "long skirt": 0.13}
LEG_WIDTH = {"trousers": 1.1, "wide trousers": 1.45, "leggings": 0.9, "cropped": 1.05, "shorts": 1.25}
KNEE = 0.27
ANKLE = 0.04
SHOULDER = 0.81


def figure_rows(
    identity: Identity, modality: str, yaw: float, rng: np.random.Generator, foot: tuple[float, float], scale: float
) -> list[tuple[float, ...]]:
    """Rows of :func:`salcr.data.synthetic.raster.shape` for one person in one pose.

    Args:
        identity: who it is.
        modality: ``"visible"`` or ``"infrared"``.
        yaw: angle from which the person is seen, in radians, 0 = from the front.
        rng: draws the gait phase and the swing of the arms.
        foot: pixel between the feet.
        scale: pixels per standing height.
    """
    figure = _Figure(identity, modality, yaw, rng, foot, scale)
    figure.legs()
    figure.torso()
    figure.arms()
    figure.head()
    figure.carried()
    return figure.rows()


class _Figure:
    """Collects shapes with their depth. Body axes: x to the person's left, y up, z forward, in standing heights."""

    def __init__(self, identity, modality, yaw, rng, foot, scale):
        self.identity, self.modality, self.yaw, self.foot, self.scale = identity, modality, yaw, foot, scale
        self.cos, self.sin = math.cos(yaw), math.sin(yaw)
        self.light = rng.uniform(-1, 1)
        self.fold_seed = int(rng.integers(1 << 16))
        self.phase = rng.uniform(0, 2 * math.pi)
        self.stride = identity.stride * rng.uniform(0.6, 1.1)
        self.swing = identity.swing * rng.uniform(0.6, 1.1)
        self.spread = rng.uniform(0.1, 0.3)
        self.shapes: list[tuple[float, tuple[float, ...]]] = []

    def rows(self) -> list[tuple[float, ...]]:
        return [row for _, row in sorted(self.shapes, key=lambda item: item[0])]

    def depth(self, p: Point) -> float:
        return p[2] * self.cos - p[0] * self.sin

    def width(self, across: float, deep: float) -> float:
        """Half width of an elliptic cross section seen from the current angle."""
        return math.hypot(across * self.cos, deep * self.sin)

    def pixel(self, p: Point) -> tuple[float, float]:
        x = p[0] * self.cos + p[2] * self.sin + self.identity.lean * p[1]
        return self.foot[0] + self.scale * x, self.foot[1] - self.scale * p[1]

    def add(self, kind, start, end, widths, paint, *, depth=None, second=None, rounding=0.02, shade=0.4, **options):
        """Add one shape; sizes in standing heights, depth by default that of the middle of its axis."""
        depth = 0.5 * (self.depth(start) + self.depth(end)) if depth is None else depth
        colors = paint.seen(self.modality), (second or paint).seen(self.modality)
        widths = tuple(self.scale * w for w in (widths if isinstance(widths, tuple) else (widths,) * 3))
        options.setdefault("fold_seed", self.fold_seed)
        row = shape(
            kind, self.pixel(start), self.pixel(end), widths, colors,
            rounding=min(rounding * self.scale, *widths), shade=shade, light=self.light, **options,
        )  # fmt: skip
        self.shapes.append((depth, row))

    def add_cloth(self, kind, start, end, widths, garment: Garment, *, around=0.0, **options):
        """Add a shape wearing a garment; ``around`` is the radius about which its texture turns with the view."""
        self.add(
            kind, start, end, widths, garment.ground, second=garment.pattern, texture=garment.texture,
            period=garment.period * self.scale, shade=garment.sheen, folds=garment.folds,
            fold_period=0.05 * self.scale, phase=(garment.phase + around * self.yaw / garment.period, garment.phase),
            **options,
        )  # fmt: skip

    def legs(self) -> None:
        person, lower = self.identity, self.identity.lower
        hip_x, top = 0.55 * person.hip, person.leg
        thigh, calf = 0.052 * person.limb, 0.036 * person.limb
        end = LEG_END[lower.kind]
        for side in (-1, 1):
            angle = side * self.stride * math.sin(self.phase)
            bend = 0.35 * self.stride * max(0.0, side * math.cos(self.phase))
            hip = (side * hip_x, top, 0.0)
            knee = (side * hip_x * 0.95, KNEE + 0.01 * abs(angle), (top - KNEE) * math.sin(angle))
            ankle = (side * hip_x * 0.9, ANKLE + 0.3 * bend, knee[2] + (KNEE - ANKLE) * math.sin(angle - 2 * bend))
            toe = (ankle[0] * 1.15, ankle[1] - 0.022, ankle[2] + 0.085)
            back = self.depth(knee) - 2
            self.add(TUBE, hip, knee, (thigh, thigh, calf * 1.1), person.skin, depth=back)
            self.add(TUBE, knee, ankle, (calf * 1.1, calf, 0.6 * calf), person.skin, depth=back + 0.001)
            heel = (ankle[0], ankle[1] - 0.02, ankle[2] - 0.02)
            self.add(TUBE, heel, toe, (0.024, 0.026, 0.018), person.shoes, depth=back + 0.002)
            if person.boots:
                shaft = (ankle[0] + 0.55 * (knee[0] - ankle[0]), ankle[1] + 0.12, ankle[2] + 0.5 * (knee[2] - ankle[2]))
                self.add(TUBE, shaft, ankle, (calf * 1.15, calf, calf * 0.9), person.shoes, depth=back + 0.003)
            if lower.kind in SKIRT_END:
                continue
            wide = LEG_WIDTH[lower.kind] * person.lower_width
            self.add_cloth(TUBE, hip, knee, (thigh * 1.1, thigh * wide, calf * 1.2 * wide), lower, depth=back + 0.004)
            if end < KNEE:
                cut = (KNEE - end) / (KNEE - ANKLE)
                stop = tuple(k + cut * (a - k) for k, a in zip(knee, ankle, strict=True))
                hem = calf * (1.7 if lower.kind == "wide trousers" else 0.95) * person.lower_width
                widths = (calf * 1.2 * wide, 0.5 * (calf * 1.2 * wide + hem), hem)
                self.add_cloth(TUBE, knee, stop, widths, lower, depth=back + 0.005)
        if lower.kind in SKIRT_END:
            flare = (1.25 if lower.kind == "skirt" else 1.1) * person.lower_width
            waist, hem = self.width(person.hip, person.depth), self.width(person.hip * flare * 1.2, person.depth * 1.7)
            start, stop = (0.0, top + 0.06, 0.0), (0.0, SKIRT_END[lower.kind], 0.02 * math.sin(self.phase))
            widths = (waist, 0.45 * waist + 0.6 * hem, hem)
            self.add_cloth(SLAB, start, stop, widths, lower, depth=-1, around=person.hip, rounding=0.01)

    def torso(self) -> None:
        person, upper = self.identity, self.identity.upper
        puff = 1.12 if upper.kind in ("jacket", "coat", "hoodie") else 1.0
        self.add(TUBE, (0, 0.90, 0.01), (0, 0.79, 0.0), (0.026, 0.028, 0.04), person.skin, depth=-0.01)
        shoulder = self.width(person.shoulder, person.depth * 0.85) * puff
        hip = self.width(person.hip, person.depth) * puff
        waist = 0.5 * (shoulder + hip) * 0.95
        hem = person.leg + HEM[upper.kind]
        low = hip * (1.2 if upper.kind == "coat" else 1.05)
        around = 0.5 * (person.shoulder + person.depth)
        top = (0, SHOULDER + 0.035, 0.0)
        self.add_cloth(
            SLAB, top, (0, hem, 0.0), (shoulder * 0.92, waist, low), upper, depth=0.0, around=around, rounding=0.045
        )
        if upper.kind in ("jacket", "coat") and self.cos > 0.15:
            z = person.depth * puff
            widths = (0.032 * self.cos, 0.024 * self.cos, 0.032 * self.cos)
            self.add(SLAB, (0, SHOULDER + 0.03, z), (0, hem, z), widths, person.inner, depth=0.001)
        if upper.kind == "hoodie":
            self.add(ELLIPSE, (0, SHOULDER + 0.075, -0.05), (0, SHOULDER - 0.03, -0.06), 0.065, upper.ground)
        if person.logo != "none" and self.cos > 0.3:
            self._logo(person.depth * puff)

    def _logo(self, z: float) -> None:
        upper, logo = self.identity.upper, self.identity.logo
        paint = self.identity.scarf_paint if upper.texture else upper.pattern
        kind = ELLIPSE if logo == "disc" else SLAB
        half, tall = (0.085 if logo == "bar" else 0.048) * self.cos, 0.02 if logo == "bar" else 0.045
        self.add(kind, (0, 0.71 + tall, z), (0, 0.71 - tall, z), half, paint, depth=0.002, rounding=0.005, shade=0.1)

    def arms(self) -> None:
        person, upper = self.identity, self.identity.upper
        sleeve = SLEEVE[upper.kind]
        arm, fore = 0.033 * person.limb, 0.026 * person.limb
        bulk = 1.3 if upper.kind in ("jacket", "coat", "hoodie") else 1.12
        self.hands = []
        for side in (-1, 1):
            angle = -side * self.swing * math.sin(self.phase)
            out = self.spread * 0.12
            start = (side * (person.shoulder - 0.01), SHOULDER, 0.0)
            elbow = (start[0] + side * out, 0.645, 0.17 * math.sin(angle))
            hand = (elbow[0] + side * 0.3 * out, 0.50 + 0.03 * abs(angle), elbow[2] + 0.15 * math.sin(angle + 0.25))
            self.hands.append(hand)
            depth = self.depth(elbow) + 0.01
            self.add(TUBE, start, elbow, (arm, arm, fore * 1.1), person.skin, depth=depth)
            self.add(TUBE, elbow, hand, (fore * 1.1, fore, 0.8 * fore), person.skin, depth=depth + 0.001)
            if sleeve > 0:
                stop = tuple(s + min(sleeve, 1.0) * (e - s) for s, e in zip(start, elbow, strict=True))
                self.add_cloth(
                    TUBE, start, stop, (arm * bulk, arm * bulk, fore * 1.2 * bulk), upper, depth=depth + 0.002
                )
            if sleeve > 1:
                stop = tuple(e + 0.88 * (h - e) for e, h in zip(elbow, hand, strict=True))
                self.add_cloth(
                    TUBE, elbow, stop, (fore * 1.2 * bulk, fore * bulk, fore * bulk), upper, depth=depth + 0.003
                )

    def head(self) -> None:
        person, size = self.identity, self.identity.head
        hair, skin = person.hair_paint, person.skin
        crown, chin = 0.985 + 0.01 * size, 0.868
        middle = 0.5 * (crown + chin)
        wide = 0.052 * size * (1 + 0.15 * abs(self.sin))
        if person.hair == "bald":
            hair = skin
        grown = 0.016 if person.hair == "afro" else 0.0
        self.add(
            ELLIPSE, (0, crown + 1.2 * grown, -0.008), (0, chin + 0.02, -0.012), wide + 1.5 * grown, hair, depth=0.02
        )
        forward = 0.02
        face = self.width(0.041 * size, 0.045 * size)
        self.add(
            ELLIPSE, (0, crown - 0.03, forward), (0, chin, forward), face, skin, depth=0.02 + 0.01 * (self.cos + 0.25)
        )
        if person.hair in ("medium", "long"):
            low = 0.845 if person.hair == "medium" else 0.72
            back = -0.075 if person.hair == "long" else -0.02
            self.add(
                TUBE,
                (0, middle + 0.01, -0.015),
                (0, low, back),
                (wide, wide, 0.8 * wide),
                hair,
                depth=-0.015 * self.cos + 0.018,
            )
        elif person.hair == "ponytail":
            self.add(TUBE, (0, crown - 0.03, -0.06), (0, 0.77, -0.10), (0.02, 0.026, 0.015), hair)
        elif person.hair == "bun":
            self.add(ELLIPSE, (0, crown + 0.025, -0.045), (0, crown - 0.04, -0.05), 0.036, hair, depth=0.019)
        self._hat(crown, wide)
        if person.scarf:
            paint = person.scarf_paint
            half = self.width(0.055, 0.05)
            self.add(SLAB, (0, 0.872, 0.01), (0, 0.815, 0.01), half, paint, depth=0.06, rounding=0.025)
            self.add(SLAB, (0.03, 0.84, 0.09), (0.035, 0.66, 0.10), 0.024, paint)

    def _hat(self, crown: float, wide: float) -> None:
        paint, hat = self.identity.hat_paint, self.identity.hat
        if hat == "none":
            return
        brim = crown - 0.045
        self.add(
            SLAB,
            (0, crown + 0.015, -0.005),
            (0, brim, 0.0),
            (wide * 0.9, wide * 1.08, wide * 1.08),
            paint,
            depth=0.07,
            rounding=0.04,
        )
        if hat == "cap":
            self.add(
                TUBE, (0, brim + 0.008, 0.03), (0, brim, 0.115), (0.03, 0.028, 0.02), paint, depth=0.071 * self.cos
            )
        elif hat == "wide brim":
            self.add(
                ELLIPSE,
                (-0.12 * self.cos, brim + 0.005, -0.12 * self.sin),
                (0.12 * self.cos, brim + 0.005, 0.12 * self.sin),
                0.017,
                paint,
                depth=0.08,
            )

    def carried(self) -> None:
        person, paint, size = self.identity, self.identity.bag_paint, self.identity.bag_size
        front, back = person.depth + 0.012, -(person.depth + 0.045)
        if person.bag == "backpack":
            half = self.width(0.10 * size, 0.055 * size)
            low = 0.81 - 0.27 * size
            self.add(SLAB, (0, 0.825, back), (0, low, back), (half * 0.85, half, half), paint, rounding=0.03)
            for side in (-1, 1):
                self._strap((side * 0.07, 0.83, front), (side * 0.085, 0.62, front), paint)
        elif person.bag == "crossbody":
            self._strap((-0.09, 0.84, front), (0.10, 0.56, front), paint)
            self._strap((-0.09, 0.84, -front), (0.10, 0.56, -front), paint)
            x = person.hip + 0.03
            half = self.width(0.03, 0.075 * size)
            self.add(SLAB, (x, 0.57, 0), (x, 0.57 - 0.13 * size, 0), half, paint, depth=self.depth((x, 0, 0)) + 0.03)
        elif person.bag == "handbag":
            x, y, z = self.hands[1]
            self._strap((x, y, z), (x, y - 0.06, z), paint)
            half = self.width(0.03, 0.085 * size)
            stop = (x, y - 0.06 - 0.12 * size, z)
            self.add(SLAB, (x, y - 0.06, z), stop, (half * 0.8, half, half), paint, depth=self.depth(stop) + 0.02)
        elif person.bag == "tote":
            x = person.shoulder + 0.035
            self._strap((x - 0.03, 0.83, 0), (x, 0.62, 0), paint, depth=self.depth((x, 0, 0)) + 0.02)
            half = self.width(0.035, 0.10 * size)
            self.add(SLAB, (x, 0.63, 0), (x, 0.63 - 0.20 * size, 0), half, paint, depth=self.depth((x, 0, 0)) + 0.03)
        elif person.bag == "suitcase":
            x, z = -0.17, -0.16
            half = self.width(0.085 * size, 0.05)
            self.add(SLAB, (x, 0.30 * size, z), (x, 0.02, z), half, paint, rounding=0.02)
            self._strap((x, 0.30 * size, z), self.hands[0], paint)

    def _strap(self, start: Point, end: Point, paint: Paint, depth: float | None = None) -> None:
        self.add(TUBE, start, end, 0.011, paint, depth=depth, shade=0.1)
