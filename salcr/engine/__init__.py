"""Configuration, pseudo labels of an epoch, both stages, checkpoints, evaluation and the run folder."""

from salcr.engine.config import PRESETS, Config, load_config, single_stage
from salcr.engine.trainer import train

__all__ = ["PRESETS", "Config", "load_config", "single_stage", "train"]
