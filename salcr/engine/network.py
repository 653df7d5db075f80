"""The network of a run: built from its configuration, or read back from a checkpoint."""

from importlib import resources
from pathlib import Path

import torch

from salcr.engine import checkpoint
from salcr.engine.config import Config, Model
from salcr.models import SALCRNetwork

BUNDLED = "weights/tiny.pt"


def build_network(settings: Model, generator: torch.Generator) -> SALCRNetwork:
    """A network with the weights that ``settings`` name; what they leave open is drawn with ``generator``'s seed.

    Raises:
        FileNotFoundError, ValueError: the weights or the checkpoint cannot be read or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        network = SALCRNetwork(settings.architecture, settings.parts, authors_pg1=settings.authors_pg1)
    if settings.weights is not None:
        network.backbone.load_imagenet(checkpoint.load(_weights_file(settings.weights)))
    if settings.checkpoint is not None:
        network.load_state_dict(_network_state(settings.checkpoint))
    return network


def load_network(path: Path, device: torch.device) -> tuple[SALCRNetwork, Config]:
    """The network of a training checkpoint, in eval mode on ``device``, and the configuration it was trained with.

    Raises:
        FileNotFoundError, ValueError: no such file, or no checkpoint of this project.
    """
    state = checkpoint.load(path)
    if "config" not in state:
        raise ValueError(f"{path} is not a training checkpoint: it has no configuration")
    config = Config.model_validate(state["config"])
    network = SALCRNetwork(config.model.architecture, config.model.parts, authors_pg1=config.model.authors_pg1)
    network.load_state_dict(state["network"])
    return network.to(device, memory_format=torch.channels_last).eval(), config


def pick_device(name: str) -> torch.device:
    """``"auto"`` is the GPU if there is one, else the CPU; anything else is a torch device string."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _network_state(path: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(path)
    if "network" not in state:
        raise ValueError(f"{path} is not a training checkpoint: it has no network")
    return state["network"]


def _weights_file(weights: Path | str) -> Path:
    return Path(str(resources.files("salcr.models").joinpath(BUNDLED))) if weights == "bundled" else Path(weights)
