"""The network of a run: built from its configuration, or read back from a checkpoint."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path
from typing import Literal

import torch

from salcr import distributed, ops
from salcr.engine import best
from salcr.engine.config import Config, Model, config_of_checkpoint, load_config
from salcr.models import SALCRNetwork
from salcr.models.authors import AuthorsWeights
from salcr.models.checkpoints import load_state, read_checkpoint
from salcr.models.features import network_precision, parameter_dtype
from salcr.models.network import blank_network
from salcr.models.weights import read_weights

logger = logging.getLogger("salcr")
BUNDLED = "weights/tiny.pt"


def build_network(settings: Model, generator: torch.Generator) -> SALCRNetwork:
    """A network with the weights that ``settings`` name; what they leave open is drawn with ``generator``'s seed.

    Raises:
        OSError, ValueError: the weights or the checkpoint cannot be read or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator.initial_seed())  # torch.manual_seed: those of GPUs, too
        network = SALCRNetwork(settings.architecture, settings.parts, authors_pg1=settings.authors_pg1)
    if settings.weights is not None:
        file = _weights_file(settings.weights)
        weights = read_weights(file)
        try:
            network.backbone.load_imagenet(weights)
        except ValueError as error:
            raise ValueError(f"{file}, for a {settings.architecture}: {error}") from error
    if settings.checkpoint is not None:
        found = read_checkpoint(settings.checkpoint, settings.checkpoint_layout)
        if isinstance(found, AuthorsWeights):
            found.load_into(network, settings.architecture, settings.parts)
        else:
            load_state(network, found, settings.checkpoint)
    return network


def compile_for_training(network: SALCRNetwork, choice: Literal["auto"] | bool, device: torch.device) -> None:
    """Have ``network``'s forward compiled whole at its first call, where ``choice`` (``model.compile``) wants that.

    Parameters keep their names, and features for clustering and evaluation do not go through it.

    Raises:
        ValueError: True, in several processes.
    """
    if choice is True and distributed.world() > 1:
        raise ValueError(
            "model.compile is on, and several processes train together, whose batch norms cannot be compiled whole; "
            "set it to auto or off"
        )
    if choice is True or (choice == "auto" and device.type == "cuda" and distributed.world() == 1):
        network.compile(fullgraph=True, dynamic=False)


def product_precision(config: Config, device: torch.device) -> str:
    """``objectives.precision``, or what its ``auto`` means for the precision of the network on ``device``."""
    if config.objectives.precision != "auto":
        return config.objectives.precision
    return "bfloat16" if network_precision(config.schedule.precision, device) == "bfloat16" else "float32"


def warn_of_random_weights(settings: Model) -> None:
    """Say so where a training begins with nothing but random numbers: it is hardly ever meant."""
    if settings.weights is None and settings.checkpoint is None:
        logger.warning(
            "model.weights is not set: %s starts from random weights, and clusters of its features mean little; "
            "the paper starts from ImageNet's",
            settings.architecture,
        )


def warn_of_choice(settings: Model) -> None:
    """Say so where a training begins with a network that was chosen on test data: what it finds was chosen, too."""
    if settings.checkpoint is not None and (mark := best.mark_of(settings.checkpoint)):
        logger.warning("model.checkpoint=%s was %s", settings.checkpoint, best.describe(mark))


def load_network(
    path: Path, device: torch.device, *, layout: str = "auto", preset: str | None = None
) -> tuple[SALCRNetwork, Config]:
    """The network of a checkpoint, in eval mode on ``device``, and the configuration it was trained with.

    The file may be anyone's: its paths are left out. Where it lies in ``checkpoints/`` of a run folder, ``data.root``
    and ``data.cache`` are those of the folder's ``config.yaml``, otherwise they are None. A file of the authors' code
    has no configuration: it is that of ``preset``, with the file's architecture and number of parts.

    Args:
        path, layout: see :func:`salcr.models.checkpoints.read_checkpoint`.
        device: where the network is to be.
        preset: for a file without a configuration; by default the paper's settings for SYSU-MM01.

    Raises:
        OSError, ValueError: no such file, no checkpoint, or a preset for one that has a configuration.
    """
    state = read_checkpoint(path, layout)
    if isinstance(state, AuthorsWeights):
        network = state.network()
        model = {"architecture": state.architecture, "parts": len(network.parts.tokens), "weights": None}
        config = load_config(preset=preset, model=model)
        return network.to(device, memory_format=torch.channels_last).eval(), config
    if preset is not None:
        raise ValueError(f"{path} has its own settings: preset is for files of the authors' code, which have none")
    if "config" not in state:
        raise ValueError(f"{path} is not a training checkpoint: it has no configuration")
    config = config_of_checkpoint(state["config"], path)
    network = blank_network(config.model.architecture, config.model.parts, authors_pg1=config.model.authors_pg1)
    network.to(parameter_dtype(config.schedule.precision))
    load_state(network, state, path)
    run = path.absolute().parents[1] / "config.yaml" if path.absolute().parent.name == "checkpoints" else None
    if run is not None and run.exists():
        own = load_config(file=run).data
        places = {"root": own.root, "cache": own.cache}
        config = config.model_copy(update={"data": config.data.model_copy(update=places)})
    return network.to(device, memory_format=torch.channels_last).eval(), config


@contextmanager
def timed_convolutions() -> Iterator[None]:
    """On a GPU the first convolution of each shape times cuDNN's algorithms, and later ones take the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def configured_backend(config: Config) -> Iterator[None]:
    """Operators run on ``config.backend``; ``"auto"`` leaves an outer :func:`salcr.ops.use_backend` as it is."""
    with ExitStack() as stack:
        if config.backend != "auto":
            stack.enter_context(ops.use_backend(config.backend))
        yield


def _weights_file(weights: Path | str) -> Path:
    return Path(str(resources.files("salcr.models").joinpath(BUNDLED))) if weights == "bundled" else Path(weights)
