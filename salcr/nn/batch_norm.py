"""Batch norms over the whole batch where several processes have a share of it each."""

from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from salcr import distributed

Network = TypeVar("Network", bound=nn.Module)


def synchronised(network: Network) -> Network:
    """``network``, whose batch norms take their statistics over the rows of all processes; unchanged in a single one.

    Names in its ``state_dict`` stay. The processes must have equally many rows.
    """
    if distributed.world() == 1:
        return network
    if next(network.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = BatchNormOverProcesses
    return network


class BatchNormOverProcesses(_BatchNorm):
    """:class:`torch.nn.SyncBatchNorm` on a CPU, which that refuses: by differentiable sums over the processes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        axes, shape = [0, *range(2, x.ndim)], (1, -1, *(1,) * (x.ndim - 2))
        count = x.numel() // x.shape[1] * distributed.world()
        mean = distributed.total(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = distributed.total(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Of any number of axes, like the norm it stands for."""
