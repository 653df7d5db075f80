"""Argument checks shared by the operators. Each raises an error that names the argument and what it got."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch

INT64_MAX = 2**63 - 1

_known = ContextVar("values_are_known", default=False)


@contextmanager
def known_values(known: bool = True) -> Iterator[None]:
    """Inside, checks take the values of arguments to be good: to look at them would wait for the device.

    With ``known=False`` they look again. Shapes and types, which are on the host, are checked in either case.
    """
    token = _known.set(known)
    try:
        yield
    finally:
        _known.reset(token)


def values_are_known() -> bool:
    return _known.get()


def wide_dtype(x: torch.Tensor) -> torch.dtype:
    """That of ``x``, or float32 where it is of half precision: what operators compute in."""
    return torch.promote_types(x.dtype, torch.float32)


def check_tensor(
    name: str, x: torch.Tensor, *, ndim: int | tuple[int, ...], floating: bool = True, no_rows: bool = False
) -> None:
    """``x`` is a tensor of ``ndim`` axes (or one of several), of floating (else int64) dtype, and not empty.

    ``no_rows`` allows an empty first axis.
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.layout != torch.strided or x.is_nested:
        raise TypeError(f"{name} must be dense, got {'a nested tensor' if x.is_nested else x.layout}")
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if x.ndim not in allowed:
        raise ValueError(f"{name} must have {' or '.join(map(str, allowed))} axes, got shape {tuple(x.shape)}")
    if floating and not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    if floating and x.element_size() < 2:
        raise TypeError(f"{name} must have 16 bits or more, got {x.dtype}")
    if not floating and x.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, got {x.dtype}")
    if (x.shape[1:].numel() if no_rows else x.numel()) == 0:
        raise ValueError(f"{name} is empty: shape {tuple(x.shape)}")


def check_finite(name: str, x: torch.Tensor, first: int = 0) -> None:
    """No row of ``x``, counted from ``first``, holds NaN or Inf.

    Synchronises with the device: for operators outside the training step only.
    """
    if values_are_known():
        return
    sums = x.flatten(1).sum(1, dtype=wide_dtype(x))
    if torch.isfinite(sums).all():  # one pass, no copy; the sum of finite entries may overflow
        return
    bad = ~torch.isfinite(x).flatten(1).all(1)
    if bad.any():
        raise ValueError(f"{name} has NaN or Inf, first in row {first + int(bad.nonzero()[0])}")


def check_same(name: str, x: torch.Tensor, other_name: str, other: torch.Tensor, *, dtype: bool = True) -> None:
    """``x`` is on the device of ``other``, and (unless ``dtype=False``) of its dtype."""
    if x.device != other.device:
        raise ValueError(f"{name} is on {x.device}, {other_name} on {other.device}")
    if dtype and x.dtype != other.dtype:
        raise TypeError(f"{name} is {x.dtype}, {other_name} {other.dtype}")


def check_positive(name: str, value: float) -> None:
    """``value`` is a number above 0 and below infinity."""
    check_number(name, value)
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive{' and finite' if value > 0 else ''}, got {value}")


def check_integer(name: str, value: int, low: int = 1, high: int = INT64_MAX) -> None:
    """``low <= value <= high``, and ``value`` is an integer: no float, however whole, and no bool."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer, torch.SymInt)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__} {value!r}")
    if value < low and high == INT64_MAX:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, got {value}")


def check_number(name: str, value: float) -> None:
    """``value`` is a number: no bool, no string, and no tensor, which could want a gradient."""
    allowed = (int, float, np.integer, np.floating, torch.SymInt, torch.SymFloat)
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")


def check_share(name: str, value: float) -> None:
    """``value`` is a number from 0 to 1."""
    check_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_flag(name: str, value: bool) -> None:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_values(name: str, x: torch.Tensor) -> None:
    """``x`` has values to look at: for operators whose result's shape, or whose verdict, depends on them."""
    if x.is_meta:
        raise ValueError(f"{name} is a meta tensor, and this operator has to read its values")
    if torch._C._functorch.is_batchedtensor(x):
        raise ValueError(
            f"{name} is batched by torch.func.vmap, and this operator has to read its values: loop instead"
        )


def check_indices(name: str, x: torch.Tensor, low: int, high: int) -> None:
    """``low <= x < high`` everywhere. Synchronises with the device, once."""
    if values_are_known():
        return
    smallest, largest = torch.stack(x.aminmax()).tolist()
    if smallest < low or largest >= high:
        raise ValueError(f"{name} must be in [{low}, {high}), got {smallest} to {largest}")


def check_lengths(name: str, x: torch.Tensor, first: int = 0) -> None:
    """No row of ``x`` holds NaN or Inf or is too long to square, in float32 or wider. Synchronises as check_finite."""
    check_all_lengths({name: x}, first)


def check_all_lengths(rows: Mapping[str, torch.Tensor], first: int = 0) -> None:
    """:func:`check_lengths` of several by their names. Synchronises with the device once."""
    if values_are_known():
        return
    squares_fit = [_squares_fit(x) for x in rows.values()]
    if torch.stack([fit.all() for fit in squares_fit]).all():
        return
    for (name, x), fit in zip(rows.items(), squares_fit, strict=True):
        if fit.all():
            continue
        check_finite(name, x, first)
        row, dtype = first + int((~fit).nonzero()[0]), wide_dtype(x)
        longest = f"{_longest(dtype):.3g}"
        raise ValueError(f"{name} has a norm above {longest}, whose square {dtype} cannot hold, first in row {row}")


def _squares_fit(x: torch.Tensor) -> torch.Tensor:
    """``[N]``, bool: which rows have a norm that is a number and may be squared."""
    dtype = wide_dtype(x)
    return torch.linalg.vector_norm(x, dim=1, dtype=dtype) <= _longest(dtype)


def _longest(dtype: torch.dtype) -> float:
    """Norm up to which the squared distance of two rows is finite, with 4 % to spare for the roundings of long sums."""
    return 0.49 * torch.finfo(dtype).max ** 0.5


def check_written(name: str, x: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    """``x``, which is changed in place, has no element twice and none that ``other`` has too."""
    if not _strides_are_nested(x) and _places(x).unique().numel() < x.numel():
        raise ValueError(f"{name} is changed in place and has elements that are one in memory: strides {x.stride()}")
    if x.untyped_storage().data_ptr() != other.untyped_storage().data_ptr():
        return
    if max(_first(x), _first(other)) < min(_end(x), _end(other)) and torch.isin(_places(x), _places(other)).any():
        raise ValueError(f"{other_name} shares elements with {name}, which is changed in place: pass a copy of it")


def _strides_are_nested(x: torch.Tensor) -> bool:
    """Each axis steps over all that axes of shorter steps reach, so that no two elements are one in memory."""
    reach = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1 and stride < reach:
            return False
        reach += (size - 1) * stride
    return True


def _places(x: torch.Tensor) -> torch.Tensor:
    """The offset in its storage of each element."""
    return torch.arange(_first(x), _end(x)).as_strided(x.shape, x.stride())


def _first(x: torch.Tensor) -> int:
    return int(x.storage_offset())


def _end(x: torch.Tensor) -> int:
    return _first(x) + 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
