"""How contrasts and searches multiply features with a memory (docs/numerics.md, "Precision of the products").

All other arithmetic is as wide as an operator says, and none of it autocast's business.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import torch
from torch.utils._pytree import tree_map

from salcr.ops._checks import check_choice

PRECISIONS = ("auto", "float32", "tf32", "bfloat16")
Function = TypeVar("Function", bound=Callable)


def check_precision(precision: str, features: torch.Tensor) -> str:
    """``precision``; for ``"auto"`` bfloat16 where autocast computes in that, otherwise float32.

    Features that are not float32 are multiplied as they are, which has the name ``"float32"``.

    Raises:
        ValueError: no precision of that name, or less than that of float64 features.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "auto":
        precision = "bfloat16" if _autocast_to_bfloat16(features.device.type) else "float32"
    elif precision != "float32" and features.dtype == torch.float64:
        raise ValueError(f"precision={precision!r} is for float32, got {features.dtype} features")
    return precision if features.dtype == torch.float32 else "float32"


def multiplied(precision: str, *memories: torch.Tensor) -> Sequence[torch.Tensor]:
    """``memories`` in the dtype that their products are made in; on a GPU one launch rounds all."""
    if precision != "bfloat16":
        return memories
    if torch._C._are_functorch_transforms_active():  # which have no rule for lists
        return [memory.bfloat16() for memory in memories]
    rounded = [torch.empty_like(memory, dtype=torch.bfloat16) for memory in memories]
    torch._foreach_copy_(rounded, memories)
    return rounded


def in_float32(function: Callable, place: int = 0) -> Callable:
    """A backend for a contrast's table, of a ``function`` without products of bfloat16: it gets operands in float32.

    Args:
        function: takes no precision, which is the last argument of what is returned.
        place: of the features among the arguments; the memories, which come in bfloat16, are next to them.
    """

    @wraps(function)
    def call(*arguments, **options):
        *given, precision = arguments
        if precision == "bfloat16":
            given[place] = tree_map(_rounded, given[place])
            given[place + 1] = tree_map(torch.Tensor.float, given[place + 1])
        return function(*given, **options)

    return call


def without_autocast(function: Function) -> Function:
    """``function``, whose products autocast does not round."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                with torch.autocast(device, enabled=False):
                    return call(*arguments, **options)
        return function(*arguments, **options)

    return call  # type: ignore[return-value]


def _rounded(x: torch.Tensor) -> torch.Tensor:
    """``x`` as bfloat16 holds it, in float32. The gradient passes as it is."""
    return x + (x.detach().bfloat16().float() - x.detach())


def autocasts(device: str) -> bool:
    """Whether autocast is on for tensors of this type of ``device``; it does not know meta."""
    return device != "meta" and torch.is_autocast_enabled(device)


def _autocast_to_bfloat16(device: str) -> bool:
    return autocasts(device) and torch.get_autocast_dtype(device) == torch.bfloat16
