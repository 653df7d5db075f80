"""Synthetic pedestrians in the published layouts, and objects to pretrain on. Imports numba: import it late."""

from salcr.data.synthetic.baselines import baseline_rank1
from salcr.data.synthetic.camera import Camera, sample_camera
from salcr.data.synthetic.identity import Garment, Identity, Paint, sample_identity
from salcr.data.synthetic.objects import render_objects
from salcr.data.synthetic.render import render_pedestrian
from salcr.data.synthetic.write import write_dataset

__all__ = [
    "Camera",
    "Garment",
    "Identity",
    "Paint",
    "baseline_rank1",
    "render_objects",
    "render_pedestrian",
    "sample_camera",
    "sample_identity",
    "write_dataset",
]
