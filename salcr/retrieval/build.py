"""Making an index: features of all images in any folders, written as they come and gone on with after a kill."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from salcr.data._images import Progress, name_some
from salcr.models.checkpoints import load_trained, network_hash
from salcr.models.features import for_features, pick_device
from salcr.retrieval.codes import keep_codes
from salcr.retrieval.images import decode_batches, embed, find_images
from salcr.retrieval.modality import check_modality
from salcr.retrieval.storage import DTYPES, Manifest, Storage, locked

logger = logging.getLogger("salcr")
COMMIT_SECONDS = 10.0
"""So much work is lost at most when a process is killed."""


@dataclass(frozen=True)
class Summary:
    """What :func:`build_index` did.

    Attributes:
        added: images whose features were written by this call.
        known: images that were in the index before.
        bad: files that do not decode, which the log has named.
        infrared: of the added ones, images that went through the infrared stem.
    """

    added: int
    known: int
    bad: int
    infrared: int


def build_index(
    images: Sequence[str | Path],
    checkpoint: str | Path,
    out: str | Path,
    *,
    modality: str = "auto",
    dtype: str = "float16",
    append: bool = False,
    batch: int = 64,
    device: str = "auto",
    layout: str = "auto",
    height: int | None = None,
    width: int | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Write the features of images to an index, or go on with one whose making was interrupted.

    Args:
        images: files, and folders that are searched at any depth.
        checkpoint: of a training run, or with the names of the authors' code.
        out: the index's folder, made if absent.
        modality: of the images: ``"infrared"``, ``"visible"``, or ``"auto"``, see
            :func:`salcr.retrieval.modality.chroma`.
        dtype: of the stored features, ``"float16"`` or ``"float32"``.
        append: add those of ``images`` that a finished index does not have; files are told by their absolute paths.
        batch: images that go through the network together.
        device: where to compute, see :func:`salcr.models.features.pick_device`.
        layout, height, width: of the checkpoint, see :func:`salcr.models.checkpoints.load_trained`.
        progress: called with the number of images looked at and their total.

    Files that do not decode are named in the log and left out. What is in the index is never written again. A large
    index is given codes, which its exact search reads, see ``salcr.retrieval.codes``.

    Raises:
        FileExistsError: the index is finished, and ``append`` is False.
        ValueError: no image; the index is damaged, of another network or of other settings; the checkpoint is none.
        OSError: a place or the checkpoint is missing, or the index cannot be written.
    """
    check_modality(modality)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    found, others = find_images(images)
    if others:
        logger.warning("left out, as their names are not those of images: %s", name_some(others))
    if not found:
        raise ValueError(f"no image in {', '.join(map(str, images))}")
    folder = Path(out)
    trained = load_trained(Path(checkpoint), pick_device(device), layout=layout, height=height, width=width)
    wanted = Manifest(
        network=network_hash(trained.network),
        checkpoint=os.path.abspath(checkpoint),
        height=trained.height,
        width=trained.width,
        modality=modality,
        dtype=dtype,
        dimension=trained.network.width,
    )
    storage = _open(folder, wanted, append)
    known = set(storage.paths())
    new = [path for path in found if path not in known]
    if known:
        logger.info("%s: images that it has: %d, new ones: %d", folder, len(known), len(new))
    added = infrared = bad = 0
    place = next(trained.network.parameters()).device
    size = dict(height=trained.height, width=trained.width)
    with for_features(trained.network), storage.writing() as writer:
        committed = time.monotonic()
        for some in decode_batches(new, **size, modality=modality, batch=batch, progress=progress):
            for path, reason in some.bad:
                logger.warning("skipped %s: %s", path, reason)
            if some.paths:
                features = embed(trained.network, some, place).cpu().numpy()
                writer.add(some.paths, some.infrared, features)
            added, infrared, bad = added + len(some.paths), infrared + int(some.infrared.sum()), bad + len(some.bad)
            if time.monotonic() - committed >= COMMIT_SECONDS:
                writer.commit(complete=False)
                committed = time.monotonic()
        writer.commit(complete=True)
    keep_codes(Storage(folder))
    return Summary(added, len(known), bad, infrared)


def check_network(storage: Storage, found: str) -> None:
    """The index holds features of the network whose hash is ``found``.

    Raises:
        ValueError: of another one.
    """
    if storage.manifest.network != found:
        raise ValueError(
            f"{storage.folder} is an index of another network: it was made with {storage.manifest.checkpoint}, whose "
            f"weights have the hash {storage.manifest.network[:12]}…, and the checkpoint given has {found[:12]}…"
        )


def _open(folder: Path, wanted: Manifest, append: bool) -> Storage:
    """The index in ``folder``, where it is one that can be gone on with, or a new one."""
    if not Storage.exists(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not Storage.is_free(folder, wanted):
            raise FileExistsError(f"{folder} holds other files: an index has a folder of its own")
        with locked(folder):
            return Storage.create(folder, wanted)
    storage = Storage(folder)
    check_network(storage, wanted.network)
    for name in ("modality", "dtype", "height", "width"):
        has, asked = getattr(storage.manifest, name), getattr(wanted, name)
        if has != asked:
            raise ValueError(f"{folder} was begun with {name} {has}, not {asked}: give the same or make another index")
    if storage.manifest.complete and not append:
        raise FileExistsError(
            f"{folder} holds a finished index (images: {storage.manifest.rows}): --append adds those it does not have"
        )
    return storage
