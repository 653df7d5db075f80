"""A batch norm over the rows of all processes."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from salcr import distributed
from salcr.ops._checks import wide_dtype


class BatchNormOverProcesses(_BatchNorm):
    """In training its statistics are those of the rows of all processes, each of which must have equally many.

    It never waits for a GPU. :class:`torch.nn.SyncBatchNorm` does in every pass, to find the processes without rows.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        self.num_batches_tracked.add_(1)
        averages = self.running_mean, self.running_var, self.momentum
        return _OverProcesses.apply(x, self.weight, self.bias, *averages, self.eps)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Of any number of axes, like the norm it stands for."""


class _OverProcesses(torch.autograd.Function):
    """Its gradients of weight and bias are of this process's rows."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps):
        kernels, x = _kernels(x), x.contiguous(memory_format=_layout(x))
        own = torch.stack(kernels.batch_norm_stats(x, eps))
        means, scales = distributed.gather(own[None]).unbind(1)
        averages, counts = (running_mean, running_var, momentum, eps), _counts(x, running_mean.dtype)
        mean, scale = kernels.batch_norm_gather_stats_with_counts(x, means, scales, *averages, counts)
        ctx.save_for_backward(x, weight, mean, scale)
        return kernels.batch_norm_elemt(x, weight, bias, mean, scale, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight, mean, scale = ctx.saved_tensors
        kernels, gradient = _kernels(x), gradient.contiguous(memory_format=_layout(x))
        wanted = ctx.needs_input_grad[:3]
        *sums, of_weight, of_bias = kernels.batch_norm_backward_reduce(gradient, x, mean, scale, weight, *wanted)
        of_x = None
        if wanted[0]:
            sums = distributed.total(torch.stack(sums))
            counts = _counts(x, torch.int32)
            of_x = kernels.batch_norm_backward_elemt(gradient, x, mean, scale, weight, *sums, counts)
        return of_x, of_weight, of_bias, *(None,) * 4


def _layout(x: torch.Tensor) -> torch.memory_format:
    """In which the kernels take ``x``; it is copied where it has another."""
    rows = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if rows else torch.contiguous_format


def _counts(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """How many entries a channel has in each process."""
    return torch.full((distributed.world(),), x.numel() // x.shape[1], dtype=dtype, device=x.device)


def _kernels(x: torch.Tensor) -> Any:
    """PyTorch's, which are for GPUs alone, or their formulas."""
    return torch if x.is_cuda else _Formulas


class _Formulas:
    """What PyTorch's kernels of these names compute. A scale is ``1 / sqrt(variance + eps)``."""

    @staticmethod
    def batch_norm_stats(x, eps):
        var, mean = torch.var_mean(x.to(wide_dtype(x)), _axes(x), correction=0)
        return mean, (var + eps).rsqrt()

    @staticmethod
    def batch_norm_gather_stats_with_counts(x, means, scales, running_mean, running_var, momentum, eps, counts):
        count = counts.sum()
        shares = (counts / count)[:, None]
        mean = (means * shares).sum(0)
        var = ((scales**-2 - eps + (means - mean).square()) * shares).sum(0)
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (count / (count - 1)), momentum)
        return mean, (var + eps).rsqrt()

    @staticmethod
    def batch_norm_elemt(x, weight, bias, mean, scale, eps):
        return ((x - _column(mean, x)) * _column(scale * weight, x) + _column(bias, x)).to(x.dtype)

    @staticmethod
    def batch_norm_backward_reduce(gradient, x, mean, scale, weight, of_x, of_weight, of_bias):
        wide = gradient.to(mean.dtype)
        of_gradient = wide.sum(_axes(x))
        of_products = (wide * (x - _column(mean, x))).sum(_axes(x))
        return of_gradient, of_products, of_products * scale, of_gradient.clone()

    @staticmethod
    def batch_norm_backward_elemt(gradient, x, mean, scale, weight, of_gradient, of_products, counts):
        constant, slope = of_gradient / counts.sum(), of_products / counts.sum() * scale.square()
        left = gradient - _column(constant, x) - (x - _column(mean, x)) * _column(slope, x)
        return (left * _column(scale * weight, x)).to(x.dtype)


def _axes(x: torch.Tensor) -> list[int]:
    """All but that of the channels."""
    return [0, *range(2, x.ndim)]


def _column(of_channels: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A number of each channel, for all of its entries in ``x``."""
    return of_channels.view(-1, *(1,) * (x.ndim - 2))
