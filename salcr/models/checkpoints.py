"""Reading the files that a training writes: plain values and tensors, whoever made them, and the network among them."""

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from salcr.models.network import SALCRNetwork


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint (tensors and plain values only), whoever made it: no code of it runs.

    Raises:
        OSError: no such file, or the disk does not give it.
        ValueError: it is truncated, damaged (every byte is checked), grows as it is read, or no checkpoint.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(content) as archive:
            damaged = archive.testzip()
            size = sum(entry.file_size for entry in archive.infolist())
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        if size > content.getbuffer().nbytes:
            raise ValueError("its entries are compressed or overlap")
        content.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(content, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in reason:  # torch advises to load it unsafely
            reason = "it must hold nothing but tensors and plain values"
        raise ValueError(f"{path} is not a readable checkpoint: {reason}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
    return state


def load_state(network: SALCRNetwork, state: dict[str, Any], path: Path) -> None:
    """Give ``network`` the weights of the training checkpoint ``state``, which was read from ``path``.

    Raises:
        ValueError: they are none, or do not fit; the message names ``path``.
    """
    if "network" not in state:
        raise ValueError(f"{path} is not a training checkpoint: it has no network")
    given = state["network"]
    if not isinstance(given, dict) or not all(_is_weight(name, x) for name, x in given.items()):
        raise ValueError(f"{path} is not a training checkpoint: its network must be tensors of real numbers by name")
    try:
        network.load_state_dict(given)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit this network: {' '.join(str(error).split())}") from error


def _is_weight(name: object, x: object) -> bool:
    """Whether a state dict can hold it; anything else makes ``load_state_dict`` fail in ways of its own."""
    if not isinstance(name, str) or not isinstance(x, torch.Tensor):
        return False
    dense = x.layout == torch.strided and not (x.is_quantized or x.is_nested or x.is_meta)
    return dense and (x.is_floating_point() or name.endswith("num_batches_tracked"))
