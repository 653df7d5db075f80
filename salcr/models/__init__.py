"""ResNet-50 and its smaller sisters, and the two-stream network over them."""

from salcr.models.network import Embedding, SALCRNetwork, TrainingFeatures
from salcr.models.resnet import ARCHITECTURES, TwoStreamResNet

__all__ = ["ARCHITECTURES", "Embedding", "SALCRNetwork", "TrainingFeatures", "TwoStreamResNet"]
