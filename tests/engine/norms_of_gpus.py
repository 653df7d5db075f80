"""``torch.nn.SyncBatchNorm``, which takes tensors of GPUs alone, on CPUs: its kernels by their formulas."""

from contextlib import contextmanager
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules._functions import SyncBatchNorm

from salcr.engine import session

FORWARD = nn.SyncBatchNorm.forward


@contextmanager
def norms_of_gpus():
    """Inside, training in several processes has the norms that it has on GPUs."""
    kernels = statistics, statistics_of_all, normalised, backward_sums, backward
    names = "stats", "gather_stats_with_counts", "elemt", "backward_reduce", "backward_elemt"
    with pytest.MonkeyPatch.context() as patch:
        for name, kernel in zip(names, kernels, strict=True):
            patch.setattr(torch, f"batch_norm_{name}", kernel)
        patch.setattr(nn.SyncBatchNorm, "forward", forward)
        patch.setattr(nn.parallel.DistributedDataParallel, "_passing_sync_batchnorm_handle", mock.Mock())
        patch.setattr(session, "synchronised", nn.SyncBatchNorm.convert_sync_batchnorm)
        yield


def forward(norm, x):
    if not norm.training:
        return FORWARD(norm, x)
    norm.num_batches_tracked.add_(1)
    averages = norm.running_mean, norm.running_var, norm.eps, norm.momentum
    return SyncBatchNorm.apply(x, norm.weight, norm.bias, *averages, dist.group.WORLD, dist.get_world_size())


def statistics(x, eps):
    return x.mean(axes(x)), (x.var(axes(x), correction=0) + eps).rsqrt()


def statistics_of_all(x, means, scales, running_mean, running_var, momentum, eps, counts):
    shares = counts[:, None] / counts.sum()
    mean = (means * shares).sum(0)
    var = ((scales**-2 - eps + (means - mean) ** 2) * shares).sum(0)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(var * counts.sum() / (counts.sum() - 1), momentum)
    return mean, (var + eps).rsqrt()


def normalised(x, weight, bias, mean, scale, eps):
    return (x - channels(mean, x)) * channels(scale * weight, x) + channels(bias, x)


def backward_sums(gradient, x, mean, scale, weight, *wanted):
    of_gradient = gradient.sum(axes(x))
    of_products = (gradient * (x - channels(mean, x))).sum(axes(x))
    return of_gradient, of_products, of_products * scale, of_gradient.clone()


def backward(gradient, x, mean, scale, weight, of_gradient, of_products, counts):
    centred = (x - channels(mean, x)) * channels(scale**2 * of_products / counts.sum(), x)
    return (gradient - channels(of_gradient / counts.sum(), x) - centred) * channels(scale * weight, x)


def axes(x):
    return [0, *range(2, x.ndim)]


def channels(values, x):
    return values.view(-1, *(1,) * (x.ndim - 2))
