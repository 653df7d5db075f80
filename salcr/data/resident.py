"""Where the decoded images of a run lie while it trains: in a GPU's memory where they fit, else in the host's."""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

logger = logging.getLogger("salcr")

MARGIN = 24 << 30  # bytes that stay free: a step of 3 x 144 images of 288x144, with memories and optimiser
CHUNK = 1024  # images copied at a time

Images = np.ndarray | torch.Tensor


def resident(
    stores: Sequence[np.ndarray], device: torch.device, where: Literal["auto", "device", "pinned"] = "auto"
) -> tuple[Images, ...]:
    """``stores``, or on a GPU copies of them in its memory, of which a step then takes its images by index.

    Args:
        stores: uint8 ``[N, H, W, 3]`` each; see :func:`salcr.data.open_store`.
        device: where training computes. On the CPU the stores are returned as they are.
        where: ``device``: in the device's memory; ``pinned``: in the host's, and batches travel through pinned memory;
            ``auto``: the first if they all fit and leave 24 GiB free.

    Raises:
        torch.OutOfMemoryError: ``device``, and they do not fit.
    """
    if device.type != "cuda" or where == "pinned":
        return tuple(stores)
    needed, free = sum(store.nbytes for store in stores), torch.cuda.mem_get_info(device)[0]
    if where == "auto" and needed + MARGIN > free:
        logger.info(
            "%.1f GB of images stay in the host's memory: the GPU has %.1f GB free and training wants %.1f of them",
            *(size / 1e9 for size in (needed, free, MARGIN)),
        )
        return tuple(stores)
    return tuple(copied(store, device) for store in stores)


def copied(store: np.ndarray, device: torch.device) -> torch.Tensor:
    """``store`` on ``device``, copied in pieces so that the host never holds a second one."""
    images = torch.empty(store.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(store), CHUNK):
        images[start : start + CHUNK].copy_(torch.from_numpy(np.array(store[start : start + CHUNK])))
    return images
