"""Argument checks shared by the operators. Each raises an error that names the argument and what it got."""

import torch


def check_tensor(name: str, x: torch.Tensor, *, ndim: int | tuple[int, ...], floating: bool = True) -> None:
    """``x`` is a non-empty tensor of ``ndim`` axes (or one of several) and of floating (else int64) dtype."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if x.ndim not in allowed:
        raise ValueError(f"{name} must have {' or '.join(map(str, allowed))} axes, got shape {tuple(x.shape)}")
    if floating and not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    if not floating and x.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, got {x.dtype}")
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: shape {tuple(x.shape)}")


def check_finite(name: str, x: torch.Tensor) -> None:
    """No row of ``x`` holds NaN or Inf. Synchronises with the device: for operators outside the training step only."""
    sums = x.flatten(1).sum(1, dtype=torch.promote_types(x.dtype, torch.float32))
    if torch.isfinite(sums).all():  # one pass, no copy; the sum of finite entries may overflow
        return
    bad = ~torch.isfinite(x).flatten(1).all(1)
    if bad.any():
        raise ValueError(f"{name} has NaN or Inf, first in row {int(bad.nonzero()[0])}")


def check_same(name: str, x: torch.Tensor, other_name: str, other: torch.Tensor, *, dtype: bool = True) -> None:
    """``x`` is on the device of ``other``, and (unless ``dtype=False``) of its dtype."""
    if x.device != other.device:
        raise ValueError(f"{name} is on {x.device}, {other_name} on {other.device}")
    if dtype and x.dtype != other.dtype:
        raise TypeError(f"{name} is {x.dtype}, {other_name} {other.dtype}")


def check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def check_range(name: str, value: int, low: int, high: int) -> None:
    """``low <= value <= high``."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, got {value}")
