"""Writes a synthetic data set to disk, in the layout of one of :data:`salcr.data.DATASETS`."""

import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from salcr.data.plan import Layout, Shot
from salcr.data.registry import DATASETS
from salcr.data.synthetic.camera import Camera, sample_camera
from salcr.data.synthetic.identity import Identity, sample_identity
from salcr.data.synthetic.render import render_pedestrian
from salcr.files import naming

JPEG_QUALITY = 92
_SPLIT, _IDENTITY, _CAMERA, _IMAGE = range(4)


def write_dataset(
    layout: str,
    out: str | os.PathLike,
    *,
    ids: int,
    images_per_camera: int,
    test_ids: int | None = None,
    seed: int = 0,
    height: int = 144,
    width: int = 72,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Render a data set of synthetic pedestrians and its split files.

    The images go to a hidden folder beside ``out`` whose name ends in ``.partial``; it is renamed when everything is
    written, so ``out`` is whole or does not exist. The same arguments give the same files, and an image does not
    depend on how many others are written.

    Args:
        layout: a name in :data:`salcr.data.DATASETS`.
        out: the folder to create; it may exist only if it is empty.
        ids: number of identities, those for testing included; at least 3.
        images_per_camera: images of every identity by every camera.
        test_ids: number of identities for testing; by default a third. At least 1, and 2 fewer than ``ids``.
        seed: draws identities, cameras, images and splits.
        height, width: of the images, in pixels.
        progress: called with the number of images written and their total.

    Raises:
        ValueError: an unknown layout or a number that is too small.
        FileExistsError: ``out`` exists and is not an empty folder.
        OSError: a file cannot be written (a full disk).

    Source: docs/method.md, "Data sets".
    """
    test_ids = max(1, ids // 3) if test_ids is None else test_ids
    layouts = {name: spec.layout for name, spec in DATASETS.items() if spec.layout is not None}
    if layout not in layouts:
        raise ValueError(f"layout must be one of {', '.join(layouts)}, got {layout!r}")
    for name, value, least in (("ids", ids, 3), ("images_per_camera", images_per_camera, 1), ("seed", seed, 0),
                               ("height", height, 16), ("width", width, 8)):  # fmt: skip
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 1 <= test_ids <= ids - 2:
        raise ValueError(f"test_ids must be between 1 and {ids - 2} (ids is {ids}), got {test_ids}")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"out already exists and is not an empty folder: {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        _write(partial, layouts[layout], ids, images_per_camera, test_ids, seed, (height, width), progress)
        partial.chmod(0o755)
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(root: Path, layout: Layout, ids, images_per_camera, test_ids, seed, size, progress):
    rng = np.random.default_rng([seed, _SPLIT])
    plan = layout.plan(ids, images_per_camera, test_ids, rng)
    people = {n: sample_identity(np.random.default_rng([seed, _IDENTITY, n])) for n in range(1, ids + 1)}
    cameras = {
        n: sample_camera(np.random.default_rng([seed, _CAMERA, n]), modality, 100 * seed + layout.places[n])
        for n, modality in layout.cameras.items()
    }
    for name, text in plan.splits.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with naming(root / name):
            (root / name).write_text(text, "utf-8")
    for folder in {(root / shot.path).parent for shot in plan.shots}:
        folder.mkdir(parents=True)

    def shoot(shot: Shot) -> None:
        _shoot(root, shot, people[shot.identity], cameras[shot.camera], seed, size)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        try:
            for done, _ in enumerate(pool.map(shoot, plan.shots), start=1):
                if progress is not None:
                    progress(done, len(plan.shots))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _shoot(root: Path, shot: Shot, person: Identity, camera: Camera, seed: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng([seed, _IMAGE, shot.identity, shot.camera, shot.image])
    image = render_pedestrian(person, camera, rng, height=size[0], width=size[1])
    with naming(root / shot.path):
        Image.fromarray(image).save(root / shot.path, format="JPEG", quality=JPEG_QUALITY)
