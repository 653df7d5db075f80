"""Batch norms: one with ReLU as one operator, and one over the whole batch where several processes share it."""

from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from salcr import distributed, ops
from salcr.nn.norm_over_processes import BatchNormOverProcesses
from salcr.ops._checks import wide_dtype

Network = TypeVar("Network", bound=nn.Module)
EXPORTING_IS_KNOWN = torch.__version__ >= "2.13"
PARTS = "weight", "bias", "running_mean", "momentum"  # each None in some norms


def norm_relu(
    norm: nn.Module,
    x: torch.Tensor,
    shortcut: torch.Tensor | None = None,
    *,
    shortcut_norm: nn.Module | None = None,
    twice: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """``relu(norm(x) + shortcut)``, as :func:`salcr.ops.batch_norm_relu` where ``norm`` is a plain batch norm.

    With ``shortcut_norm`` it is ``relu(norm(x) + shortcut_norm(shortcut))``: one operator where both norms are plain,
    have the same ``eps`` and are both in training or both in evaluation.

    Any other module (the identity where the norm is folded) runs by itself. So does a norm

    - that is synchronised over processes, in training
    - with hooks: those of an observer, or of pruning
    - without weight or bias, without running averages or their momentum, or with averages in half precision
    - that is being exported: whoever runs the program may not have salcr's operators

    Args:
        norm: often a :class:`torch.nn.BatchNorm2d`.
        x: ``[B, C, H, W]``, which may be overwritten.
        shortcut: like ``x``, or None.
        shortcut_norm: of the shortcut, often a :class:`torch.nn.BatchNorm2d`; by default it has none.
        twice: return the result two times, for two consumers.
    """
    if shortcut_norm is not None and shortcut is None:
        raise ValueError("shortcut_norm needs a shortcut")
    plain = _is_plain(norm, x) and not _is_exported()
    if shortcut_norm is not None and not (plain and _are_alike(norm, shortcut_norm, shortcut)):
        shortcut, shortcut_norm = shortcut_norm(shortcut), None
    if not plain:
        y = norm(x)
        y = y if shortcut is None else y + shortcut
        y = torch.relu(y) if has_hooks(norm) else torch.relu_(y)  # a hook may have kept what the norm made
        return (y, y) if twice else y
    options = _arguments("", norm) | ({} if shortcut_norm is None else _arguments("shortcut_", shortcut_norm))
    found = ops.batch_norm_relu(x, shortcut=shortcut, **options, twice=twice, eps=norm.eps)
    results, statistics = found[: 1 + twice], found[1 + twice :]
    if norm.training:
        for followed, mean, var in zip((norm, shortcut_norm), statistics[::2], statistics[1::2], strict=False):
            _follow(followed, mean, var, x.numel() // x.shape[1])
    return results if twice else results[0]


def synchronised(network: Network) -> Network:
    """``network``, whose batch norms take their statistics over the rows of all processes; unchanged in a single one.

    Names in its ``state_dict`` stay. The processes must have equally many rows.

    Raises:
        ValueError: a batch norm has no weight, no bias, no running averages or no momentum.
    """
    if distributed.world() == 1:
        return network
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            for part in PARTS:
                if getattr(module, part) is None:
                    raise ValueError(f"{name or 'network'} has no {part}, without which it is not synchronised")
            module.__class__ = BatchNormOverProcesses
    return network


def has_hooks(module: nn.Module) -> bool:
    """Whether something is called before or after ``module``, forward or backward."""
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def _is_plain(norm: nn.Module, x: torch.Tensor) -> bool:
    """Whether ``norm`` is a batch norm that the operator may replace with nothing lost."""
    alone = type(norm) is nn.BatchNorm2d or (type(norm) is BatchNormOverProcesses and not norm.training)
    if not alone or any(getattr(norm, part) is None for part in PARTS):
        return False
    return norm.running_mean.dtype == wide_dtype(x) and not has_hooks(norm)


def _are_alike(norm: nn.Module, other: nn.Module, x: torch.Tensor) -> bool:
    """Whether ``other``, the norm of ``x``, may be in one operator with ``norm``, which is plain."""
    return _is_plain(other, x) and other.eps == norm.eps and other.training == norm.training


def _arguments(prefix: str, norm: nn.Module) -> dict[str, torch.Tensor]:
    """The operator's arguments for a plain norm."""
    arguments = dict(weight=norm.weight, bias=norm.bias)
    if not norm.training:
        arguments |= dict(mean=norm.running_mean, var=norm.running_var)
    return {prefix + name: x for name, x in arguments.items()}


def _is_exported() -> bool:
    """:func:`torch.compiler.is_exporting`, which PyTorch before 2.13 may answer with yes wherever it compiles."""
    return torch.compiler.is_exporting() if EXPORTING_IS_KNOWN else torch.compiler._is_exporting_flag


@torch.no_grad()
def _follow(norm: _BatchNorm, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
    """Let the running averages of ``norm`` follow the statistics of ``count`` entries a channel."""
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
