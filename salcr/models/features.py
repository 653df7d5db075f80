"""Features of whole tables of images, for clustering, evaluation and search: no augmentation, model in eval mode."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from salcr import distributed, ops
from salcr.models.network import Embedding, SALCRNetwork
from salcr.models.resnet import TwoStreamResNet


@torch.no_grad()
def extract_features(
    network: SALCRNetwork,
    images: np.ndarray | torch.Tensor,
    *,
    infrared: bool,
    batch: int,
    device: torch.device,
    precision: str = "float32",
    mirror: bool = False,
) -> Embedding:
    """Evaluation features of all ``images``, on ``device``.

    Of several processes each computes a share of the forward passes, and all have the same features: those of one.

    Args:
        network: see :func:`for_features`.
        images: uint8 ``[N, H, W, 3]`` of one modality, memory-mapped or not, or a tensor on ``device``.
        infrared: which stem they go through.
        batch: images a forward pass.
        device: where to compute.
        precision: of the network's arithmetic, see :func:`autocast`.
        mirror: average the features of each image and its mirror image and normalise again.

    Returns:
        ``f [N, D]`` and ``joint [N, (P+1)·D]``, unit rows, of the dtype of the network's parameters.
    """
    parts, width = network.parts.tokens.shape
    dtype = network.parts.tokens.dtype
    features = Embedding(*(torch.empty(len(images), n * width, dtype=dtype, device=device) for n in (1, parts + 1)))
    starts = range(0, len(images), batch)
    with for_features(network):
        for start in starts[distributed.share(len(starts))]:
            rows = slice(start, start + batch)
            x = ops.augment(_on_device(images[rows], device)).to(dtype)
            views = [x, x.flip(3)] if mirror else [x]
            with autocast(device, precision):
                found = zip(*(network.embed(view, infrared=infrared) for view in views), strict=True)
            for all_rows, of_views in zip(features, found, strict=True):
                all_rows[rows] = F.normalize(sum(widened(x) for x in of_views))
    for all_rows in features:
        distributed.complete_(all_rows, [bound * batch for bound in distributed.shares(len(starts))])
    return features


def _on_device(images: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    if isinstance(images, torch.Tensor):
        return images
    return to_device(torch.from_numpy(np.array(images)), device)


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``x`` of the host on ``device``; nothing waits for the copy."""
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


@contextlib.contextmanager
def for_features(network: SALCRNetwork) -> Iterator[None]:
    """``network`` in eval mode and with :func:`backbone_for_features`; afterwards it is as it was.

    Many calls of :func:`extract_features` inside of it fold once.
    """
    was_training, backbone = network.training, network.backbone
    network.eval()
    network.backbone = backbone_for_features(backbone)
    try:
        yield
    finally:
        network.backbone = backbone
        network.train(was_training)


def backbone_for_features(backbone: TwoStreamResNet) -> TwoStreamResNet:
    """On a CPU a copy whose batch norms are folded into convolutions; where there are none, ``backbone`` itself.

    That is the result on a GPU, too: folding would cost passes over every map. A convolution there leaves its bias to
    an addition, and :func:`salcr.ops.batch_norm_relu` does all that follows in one.
    """
    return backbone if next(backbone.parameters()).is_cuda else backbone.folded()


def pick_device(name: str) -> torch.device:
    """``"auto"`` is the GPU if there is one, else the CPU; anything else is a torch device string.

    Of several processes each gets a GPU of its machine, which becomes its current one.

    Raises:
        ValueError: no such device, or not here, or one for several processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if distributed.world() > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise ValueError(f"device {name!r} is one for {distributed.world()} processes: set it to auto, cuda or cpu")
        if (number := distributed.local_rank()) >= torch.cuda.device_count():
            raise ValueError(f"no GPU for process {number} of this machine: it has {torch.cuda.device_count()}")
        torch.cuda.set_device(number)
        name = f"cuda:{number}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is no device: auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def network_precision(precision: str, device: torch.device) -> str:
    """``precision``; for ``"auto"`` bfloat16 on a GPU that has it (from Ampere on), else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) else "float32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """The network's arithmetic in ``precision`` (see :func:`network_precision`), of :func:`parameter_dtype`'s weights.

    Rounded weights are not kept: each is used once, and a CUDA graph must not find those of another call.
    """
    if network_precision(precision, device) == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)
    return torch.autocast(device.type, enabled=False)  # also where the program around has it on


def parameter_dtype(precision: str) -> torch.dtype:
    """Of the network, and of everything that is computed from its features."""
    return torch.float64 if precision == "float64" else torch.float32


def widened(x: torch.Tensor) -> torch.Tensor:
    """``x`` in float32, or in float64 where it is that."""
    return x if x.dtype == torch.float64 else x.float()
