"""Whether a picture is infrared, told by its colours."""

import numpy as np

MODALITIES = ("infrared", "visible", "auto")
CELL = 8
PERCENTILE = 90
THRESHOLD = 10.0


def chroma(pixels: np.ndarray) -> float:
    """How colourful a picture is, from 0 for a grey one to 255.

    Each channel is averaged over cells of 8×8 pixels, in which the colour noise of cameras and of JPEG cancels out; a
    cell's chroma is its largest channel less its smallest. The result is the 90th percentile of all cells: a person in
    grey clothes on a grey road has some coloured cells.

    Args:
        pixels: uint8 ``[H, W, 3]``. What a whole number of cells leaves at the lower and right edge is not looked at,
            except where a side is shorter than a cell, which is then one cell.
    """
    height, width, _ = pixels.shape
    tall, wide = min(CELL, height), min(CELL, width)
    rows, columns = height // tall, width // wide
    cells = pixels[: rows * tall, : columns * wide].reshape(rows, tall, columns, wide, 3)
    cells = cells.sum(1, dtype=np.int32).sum(2) / (tall * wide)  # exact, and faster than a mean of both
    return float(np.percentile(np.ptp(cells, axis=2), PERCENTILE))


def is_infrared(pixels: np.ndarray, modality: str) -> bool:
    """What ``modality`` says, or for ``"auto"`` whether :func:`chroma` is at most :data:`THRESHOLD`."""
    return chroma(pixels) <= THRESHOLD if modality == "auto" else modality == "infrared"


def check_modality(modality: str) -> None:
    """``modality`` is one of :data:`MODALITIES`."""
    if modality not in MODALITIES:
        raise ValueError(f"modality must be one of {', '.join(MODALITIES)}, got {modality!r}")
