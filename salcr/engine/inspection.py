"""The newest checkpoint of a run looked at again: its pseudo labels, and features of the test images."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from salcr.data import Dataset
from salcr.engine import checkpoint
from salcr.engine.config import Config
from salcr.engine.evaluation import retrieval_features
from salcr.engine.images import open_dataset
from salcr.engine.network import configured_backend, load_network
from salcr.models import SALCRNetwork
from salcr.models.features import pick_device


class Inspection(NamedTuple):
    """What a checkpoint says of the data set of its run.

    Attributes:
        path: of the checkpoint.
        passed_over: why newer ones were not taken.
        dataset: the one that ``config.yaml`` beside the checkpoints names.
        labels: of all visible and all infrared training images, int64, noise -1; None where the checkpoint has none.
        features: ``[N, D]`` of ``dataset.test``; None where the data set has no protocol.
    """

    path: Path
    passed_over: list[str]
    dataset: Dataset
    labels: tuple[np.ndarray, np.ndarray] | None
    features: torch.Tensor | None


def inspect_newest(folder: Path) -> Inspection:
    """Look at the newest checkpoint in ``checkpoints`` of a run folder that can be read; nothing is written there.

    Raises:
        FileNotFoundError: there is none, or no data set where the run's configuration says.
        ValueError: none of them can be read.
    """
    paths = checkpoint.files(folder / "checkpoints") if (folder / "checkpoints").is_dir() else []
    passed_over: list[str] = []
    for path in paths:
        try:
            network, config, labels = _read(path)
        except (OSError, ValueError) as error:  # damaged, or replaced by a newer one since
            passed_over.append(str(error))
        else:
            dataset = open_dataset(config)
            features = _features(network, dataset, config) if dataset.protocols else None
            return Inspection(path, passed_over, dataset, labels, features)
    if passed_over:
        raise ValueError(f"no checkpoint can be read: {'; '.join(passed_over)}")
    raise FileNotFoundError(f"no checkpoint in {folder / 'checkpoints'}")


def _read(path: Path) -> tuple[SALCRNetwork, Config, tuple[np.ndarray, np.ndarray] | None]:
    network, config = load_network(path, torch.device("cpu"))
    return network, config, _labels(checkpoint.load(path).get("labels"))


def _features(network: SALCRNetwork, dataset: Dataset, config: Config) -> torch.Tensor:
    device = pick_device(config.device)
    with configured_backend(config):
        return retrieval_features(network.to(device), dataset, config, device)


def _labels(found: Any) -> tuple[np.ndarray, np.ndarray] | None:
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        return None
    if not all(isinstance(y, torch.Tensor) and y.dtype == torch.int64 and y.layout == torch.strided for y in found):
        return None
    return found[0].numpy(), found[1].numpy()
