"""Features of whole tables of images, for clustering, evaluation and search: no augmentation, model in eval mode."""

import contextlib

import numpy as np
import torch
import torch.nn.functional as F

from salcr import ops
from salcr.models.network import Embedding, SALCRNetwork


@torch.no_grad()
def extract_features(
    network: SALCRNetwork,
    images: np.ndarray,
    *,
    infrared: bool,
    batch: int,
    device: torch.device,
    precision: str = "float32",
    mirror: bool = False,
) -> Embedding:
    """Evaluation features of all ``images``, on ``device``.

    Args:
        network: put into eval mode for the call and back into its mode after it.
        images: uint8 ``[N, H, W, 3]`` of one modality, memory-mapped or not.
        infrared: which stem they go through.
        batch: images a forward pass.
        device: where to compute.
        precision: ``"float32"`` or ``"bfloat16"`` (autocast); results are float32.
        mirror: average the features of each image and its mirror image and normalise again.

    Returns:
        ``f [N, D]`` and ``joint [N, (P+1)·D]``, unit rows, float32.
    """
    was_training = network.training
    network.eval()
    rows_f, rows_joint = [], []
    for start in range(0, len(images), batch):
        x = ops.augment(torch.from_numpy(np.array(images[start : start + batch])).to(device))
        views = [x, x.flip(3)] if mirror else [x]
        with autocast(device, precision):
            f, joint = zip(*(network.embed(view, infrared=infrared) for view in views), strict=True)
        rows_f.append(F.normalize(sum(side.float() for side in f)))
        rows_joint.append(F.normalize(sum(side.float() for side in joint)))
    network.train(was_training)
    return Embedding(torch.cat(rows_f), torch.cat(rows_joint))


def pick_device(name: str) -> torch.device:
    """``"auto"`` is the GPU if there is one, else the CPU; anything else is a torch device string.

    Raises:
        ValueError: no such device, or not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is no device: {str(error).partition(chr(10))[0]}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """The network's arithmetic in ``precision``."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))
