"""One synthetic pedestrian image."""

import math

import numpy as np

from salcr.data.synthetic import raster
from salcr.data.synthetic.body import figure_rows
from salcr.data.synthetic.camera import Camera, background_rows
from salcr.data.synthetic.identity import Identity


def render_pedestrian(
    identity: Identity, camera: Camera, rng: np.random.Generator, *, height: int, width: int
) -> np.ndarray:
    """Render one image of a person: a new pose, crop and glimpse of the background at every call.

    Args:
        identity: who it is.
        camera: through which camera.
        rng: draws everything that changes from image to image.
        height, width: in pixels; people fill the height of an image twice as high as wide.

    Returns:
        ``[height, width, 3]``, uint8, RGB; an infrared image has three equal channels.
    """
    yaw = camera.view[0] + camera.view[1] * rng.standard_normal() + (math.pi if rng.random() < 0.3 else 0.0)
    frame = min(height, 2 * width)
    jitter = camera.crop[1] * rng.standard_normal(3)
    scale = frame * (camera.crop[0] + jitter[0]) * 0.93 * identity.stature
    foot = (0.5 * width + frame * jitter[1], 0.5 * (height + frame) - frame * (0.03 + 0.5 * jitter[2]))
    scene = background_rows(camera, rng, height, width)
    scene += figure_rows(identity, camera.modality, yaw, rng, foot, scale)
    exposure = math.exp(camera.flicker * rng.standard_normal())
    return raster.render(
        scene,
        height=height,
        width=width,
        gray=camera.modality == "infrared",
        gain=tuple(exposure * g for g in camera.gain),
        slope=camera.slope,
        vignette=camera.vignette,
        blur=camera.blur * frame / 1000 * rng.uniform(0.7, 1.3),
        noise=camera.noise,
        noise_seed=int(rng.integers(1 << 62)),
    )
