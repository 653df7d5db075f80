"""Index sets, one a row: the neighbours that several views agree on.

A set is a row ``[..., m]`` of int64 indices, ascending, each once, padded with -1 at the end. That is what
:func:`salcr.ops.instance_neighbors` returns and :func:`salcr.ops.set_contrast` takes.
"""

import functools
import operator

import torch

from salcr import reference
from salcr.ops._checks import INT64_MAX, check_same, check_tensor
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._register import register
from salcr.ops.backends.cpp import index_sets as _cpp
from salcr.ops.backends.triton import index_sets as _triton


def intersect_sets(*sets: torch.Tensor, impl: str = "auto") -> torch.Tensor:
    """Indices that are in every one of the sets, row by row.

    Equivalent eager expression, for one row::

        sorted(set.intersection(*({i for i in row.tolist() if i >= 0} for row in sets)))

    Args:
        sets: one or more, each ``[..., m]``, int64, rows ascending without duplicates and -1 padded at the end.
            Leading axes broadcast; widths may differ.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[..., m]`` in the same format, as wide as the narrowest set.

    Raises:
        TypeError, ValueError: no set, a wrong dtype or device, leading axes that do not broadcast; on the CPU also an
            index below -1 or of 2**63 - 1, and a row that is not ascending, unique and padded at the end (on a GPU its
            result is undefined).

    Example:
        >>> ops.intersect_sets(torch.tensor([[1, 3, 5]]), torch.tensor([[3, 5, -1]])).tolist()
        [[3, 5, -1]]

    Source: docs/method.md, "GPCR".
    """
    _check_sets(sets)
    return torch.ops.salcr.intersect_sets(sets, check_impl(impl))


def unite_sets(*sets: torch.Tensor, impl: str = "auto") -> torch.Tensor:
    """Indices that are in any of the sets, row by row.

    Equivalent eager expression, for one row::

        sorted(set.union(*({i for i in row.tolist() if i >= 0} for row in sets)))

    Args:
        sets: one or more, each ``[..., m]``, int64, rows ascending without duplicates and -1 padded at the end.
            Leading axes broadcast; widths may differ.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[..., m]`` in the same format, as wide as all the sets together.

    Raises:
        TypeError, ValueError: no set, a wrong dtype or device, leading axes that do not broadcast; on the CPU also an
            index below -1 or of 2**63 - 1, and a row that is not ascending, unique and padded at the end (on a GPU its
            result is undefined).

    Example:
        >>> ops.unite_sets(torch.tensor([[1, 3, 5]]), torch.tensor([[3, 7, -1]])).tolist()
        [[1, 3, 5, 7, -1, -1]]

    Source: docs/method.md, "GPCR".
    """
    _check_sets(sets)
    return torch.ops.salcr.unite_sets(sets, check_impl(impl))


def check_rows(name: str, rows: torch.Tensor) -> None:
    """On the CPU: the rows of ``rows`` are ascending, without duplicates, and padded with -1 at the end."""
    if rows.device.type != "cpu":
        return
    smallest, largest = int(rows.min()), int(rows.max())
    if smallest < -1 or largest == INT64_MAX:
        raise ValueError(f"{name} must be -1 or from 0 to 2**63 - 2, got {smallest} to {largest}")
    left, right = rows[..., :-1], rows[..., 1:]
    wrong = (right >= 0) & ((left < 0) | (left >= right))
    if wrong.any():
        row = rows[tuple(wrong.any(-1).nonzero()[0])]
        raise ValueError(f"{name} must be ascending, without duplicates and -1 padded at the end, got {row.tolist()}")


def _check_sets(sets: tuple[torch.Tensor, ...]) -> None:
    if not sets:
        raise ValueError("sets is empty: give one set or more")
    for n, rows in enumerate(sets):
        check_tensor(f"sets[{n}]", rows, ndim=tuple(range(1, 9)), floating=False)
        check_same(f"sets[{n}]", rows, "sets[0]", sets[0], dtype=False)
    try:
        torch.broadcast_shapes(*(rows.shape[:-1] for rows in sets))
    except RuntimeError:
        shapes = ", ".join(str(tuple(rows.shape)) for rows in sets)
        raise ValueError(f"the leading axes of sets do not broadcast: {shapes}") from None


def _merge(name, sets, impl):
    for n, rows in enumerate(sets):
        check_rows(f"sets[{n}]", rows)
    return pick(name, impl, sets[0])(*sets)


def _fake_merge(of_widths, sets, impl):
    lead = torch.broadcast_shapes(*(rows.shape[:-1] for rows in sets))
    return sets[0].new_empty(*lead, functools.reduce(of_widths, (rows.shape[-1] for rows in sets)))


for _operator, _of_widths in (("intersect_sets", torch.sym_min), ("unite_sets", operator.add)):
    for _name, _module in (("cpp", _cpp), ("triton", _triton), ("reference", reference)):
        add_backend(_operator, _name, getattr(_module, _operator))
    _merged, _fake = functools.partial(_merge, _operator), functools.partial(_fake_merge, _of_widths)
    register(_operator, "(Tensor[] sets, str impl) -> Tensor", _merged, _fake)
