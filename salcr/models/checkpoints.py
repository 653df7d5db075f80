"""Reading the files that a training writes: plain values and tensors, whoever made them, and the network among them."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch

from salcr.models.network import SALCRNetwork
from salcr.models.resnet import ARCHITECTURES
from salcr.models.weights import read_zip, why_refused

LARGEST = {"parts": 256, "height": 4096, "width": 4096}


class Trained(NamedTuple):
    """A network in eval mode, and the size in pixels of the images that it was trained with."""

    network: SALCRNetwork
    height: int
    width: int


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint (tensors and plain values only), whoever made it: no code of it runs.

    Raises:
        OSError: no such file, or the disk does not give it.
        ValueError: it is truncated, damaged (every byte is checked), grows as it is read, or no checkpoint.
    """
    content = path.read_bytes()
    try:
        state = read_zip(content)
    except MemoryError:  # it may well be whole
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a readable checkpoint: {why_refused(error)}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
    return state


def load_trained(path: Path, device: torch.device) -> Trained:
    """The network of a training checkpoint, whoever made it, on ``device``.

    Raises:
        OSError: no such file, or the disk does not give it.
        ValueError: it is no checkpoint of this project; the message, one line, names ``path``.
    """
    state = load(path)
    architecture = _setting(state, path, "model", "architecture")
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{path}: model.architecture must be one of {', '.join(ARCHITECTURES)}")
    numbers = {}
    for section, name in (("model", "parts"), ("data", "height"), ("data", "width")):
        value = numbers[name] = _setting(state, path, section, name)
        if type(value) is not int or not 1 <= value <= LARGEST[name]:
            raise ValueError(f"{path}: {section}.{name} must be a whole number from 1 to {LARGEST[name]}")
    network = SALCRNetwork(architecture, numbers["parts"])
    load_state(network, state, path)
    network = network.to(device, memory_format=torch.channels_last).eval()
    return Trained(network, numbers["height"], numbers["width"])


def network_hash(network: SALCRNetwork) -> str:
    """SHA-256 of the names, shapes and values of all weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, x in sorted(network.state_dict().items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        digest.update(x.cpu().contiguous().numpy())
    return digest.hexdigest()


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


def _setting(state: dict[str, Any], path: Path, section: str, name: str) -> Any:
    settings = state.get("config")
    settings = settings.get(section) if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or name not in settings:
        raise ValueError(f"{path} is not a training checkpoint: it has no setting {section}.{name}")
    return settings[name]


def _is_weight(name: object, x: object) -> bool:
    """Whether a state dict can hold it; anything else makes ``load_state_dict`` fail in ways of its own."""
    if not isinstance(name, str) or not isinstance(x, torch.Tensor):
        return False
    dense = x.layout == torch.strided and not (x.is_quantized or x.is_nested or x.is_meta)
    return dense and (x.is_floating_point() or name.endswith("num_batches_tracked"))
