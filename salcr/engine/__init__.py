"""Configuration, pseudo labels of an epoch, both stages, checkpoints, evaluation and the run folder."""

from salcr.engine.config import PRESETS, Config, load_config, single_stage
from salcr.engine.interruption import Interrupted
from salcr.engine.pseudo_labels import ClusteringError
from salcr.engine.run_folder import RunFolder, RunInUse
from salcr.engine.steps import NonFiniteLoss
from salcr.engine.trainer import train

__all__ = [
    "PRESETS",
    "ClusteringError",
    "Config",
    "Interrupted",
    "NonFiniteLoss",
    "RunFolder",
    "RunInUse",
    "load_config",
    "single_stage",
    "train",
]
