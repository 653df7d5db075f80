"""Checkpoints and the network among what they hold: those of a training, and those with the published names."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch

from salcr.defaults import HEIGHT, WIDTH
from salcr.models.authors import MOST_PARTS, AuthorsWeights, authors_weights
from salcr.models.network import SALCRNetwork, blank_network
from salcr.models.resnet import ARCHITECTURES
from salcr.models.weights import is_dense, read_content, why_refused

LAYOUTS = ("auto", "salcr", "authors")
OWN = {"network", "config"}
LARGEST = {"parts": MOST_PARTS, "height": 4096, "width": 4096}


class Trained(NamedTuple):
    """A network in eval mode, and the size in pixels of the images that it sees."""

    network: SALCRNetwork
    height: int
    width: int


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint (tensors and plain values only), whoever made it: no code of it runs.

    Raises:
        OSError: no such file, or the disk does not give it.
        ValueError: it is truncated, damaged (every byte of what this project writes is checked), unpacks to more than
            its size, or is no checkpoint.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: a checkpoint is a file, of a run checkpoints/epoch_NNNN.pt")
    content = path.read_bytes()
    try:
        state = read_content(content)
    except MemoryError:  # it may well be whole
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a readable checkpoint: {why_refused(error)}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
    return state


def read_checkpoint(path: Path, layout: str = "auto") -> dict[str, Any] | AuthorsWeights:
    """What a training of this project wrote, or the weights of a file of the published code; the log says which.

    Args:
        path: a file in a format of :func:`salcr.models.weights.read_weights`.
        layout: ``"salcr"``; ``"authors"``, the published names; or ``"auto"``: salcr, where the file has a
            ``network`` or a ``config``.

    Raises:
        OSError: as :func:`load`.
        ValueError: as :func:`load` and :func:`salcr.models.authors.authors_weights`; an unknown ``layout``.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    state = load(path)
    if layout == "salcr" or (layout == "auto" and not OWN.isdisjoint(state)):
        return state
    weights = authors_weights(state, path)
    weights.report()
    return weights


def load_trained(
    path: Path,
    device: torch.device,
    *,
    layout: str = "auto",
    height: int | None = None,
    width: int | None = None,
) -> Trained:
    """The network of a checkpoint, whoever made it, on ``device``.

    Args:
        path, layout: see :func:`read_checkpoint`.
        device: where the network is to be.
        height, width: of the images that it sees; by default those it was trained with, 288×144 where the file does
            not say.

    Raises:
        OSError: no such file, or the disk does not give it.
        ValueError: it is no checkpoint, or of another layout; a side that is none. The message, one line, names
            ``path`` or the side.
    """
    for name, side in (("height", height), ("width", width)):
        if side is not None and not 1 <= side <= LARGEST[name]:
            raise ValueError(f"{name} must be a whole number from 1 to {LARGEST[name]}, got {side}")
    found = read_checkpoint(path, layout)
    if isinstance(found, AuthorsWeights):
        network, size = found.network(), (HEIGHT, WIDTH)
    else:
        network, *size = _own_network(found, path)
    network = network.to(device, memory_format=torch.channels_last).eval()
    return Trained(network, *(given or known for given, known in zip((height, width), size, strict=True)))


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


def _own_network(state: dict[str, Any], path: Path) -> tuple[SALCRNetwork, int, int]:
    """The network, height and width of a training checkpoint."""
    architecture = _setting(state, path, "model", "architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ValueError(f"{path}: model.architecture must be one of {', '.join(ARCHITECTURES)}")
    numbers = {}
    for section, name in (("model", "parts"), ("data", "height"), ("data", "width")):
        value = numbers[name] = _setting(state, path, section, name)
        if type(value) is not int or not 1 <= value <= LARGEST[name]:
            raise ValueError(f"{path}: {section}.{name} must be a whole number from 1 to {LARGEST[name]}")
    network = blank_network(architecture, numbers["parts"])
    load_state(network, state, path)
    return network, numbers["height"], numbers["width"]


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
    return is_dense(x) and (x.is_floating_point() or name.endswith("num_batches_tracked"))
