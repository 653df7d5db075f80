"""Arguments that several families share: a memory may have a leading part axis, features and targets accordingly."""

from collections.abc import Iterator, Sequence

import torch

from salcr.ops._checks import check_indices, check_positive, check_same, check_tensor
from salcr.ops._precision import autocasts

HALF_TO_SINGLE = (torch.float32, torch.bfloat16, torch.float16)
"""What the Triton kernels take."""

SINGLE_AND_DOUBLE = (torch.float32, torch.float64)
"""What the C++ backend takes."""


def followed(x: torch.Tensor, leader: torch.Tensor) -> torch.Tensor:
    """Under autocast ``x`` in the dtype of ``leader``: features come in half precision there, memories in float32."""
    tensors = isinstance(x, torch.Tensor) and isinstance(leader, torch.Tensor)
    if not tensors or x.dtype == leader.dtype or not (x.is_floating_point() and leader.is_floating_point()):
        return x
    return x.to(leader.dtype) if autocasts(leader.device.type) else x


def check_parts(features: torch.Tensor, memory: torch.Tensor) -> None:
    """``features [B, D]`` with ``memory [K, D]``, or both with a leading part axis of the same length."""
    check_tensor("features", features, ndim=(2, 3))
    check_tensor("memory", memory, ndim=features.ndim)
    check_same("memory", memory, "features", features)
    if memory.shape[-1] != features.shape[-1] or memory.shape[:-2] != features.shape[:-2]:
        raise ValueError(f"memory {tuple(memory.shape)} does not fit features {tuple(features.shape)}")


def per_row(name: str, x: torch.Tensor, features: torch.Tensor, axes: int, *, floating: bool = False) -> None:
    """``x`` is int64, or else of the dtype of ``features``, with ``axes`` axes behind its rows.

    Its rows are those of ``features``, or of one of its parts.
    """
    check_tensor(name, x, ndim=tuple(range(1 + axes, features.ndim + axes)), floating=floating)
    check_same(name, x, "features", features, dtype=floating)
    rows = x.shape[: x.ndim - axes]
    if rows != features.shape[:-1] and rows != features.shape[-2:-1]:
        raise ValueError(f"{name} {tuple(x.shape)} do not fit features {tuple(features.shape)}")


def check_targets(targets: torch.Tensor, num_classes: int) -> None:
    """On the CPU: every target is -1 or a class. On a GPU looking would wait for the device."""
    if targets.device.type == "cpu":
        check_indices("targets", targets, -1, num_classes)


def ignored_rows(targets: Sequence[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Rows without a target in any of ``targets``: their gradient is 0, whatever they hold. ``[..., B]``, bool."""
    return torch.stack([(of_one < 0).expand(features.shape[:-1]) for of_one in targets]).all(0)


def check_temperature(temperature: float) -> None:
    """Positive, and large enough for float32 to hold its inverse."""
    check_positive("temperature", temperature)
    if temperature < torch.finfo(torch.float32).tiny:
        raise ValueError(f"temperature must be at least {torch.finfo(torch.float32).tiny:.2g}, got {temperature}")


def with_parts(*rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Each ``[B, D]`` or ``[P, B, D]`` as a contiguous ``[P, B, D]``."""
    return tuple((x if x.ndim == 3 else x[None]).contiguous() for x in rows)


def check_alike(features: Sequence[torch.Tensor], memories: Sequence[Sequence[torch.Tensor]]) -> None:
    """What one launch takes: features of one dtype, width and device, each with as many memories."""
    kinds = {(x.dtype, x.shape[-1], x.device) for x in features}
    if len(kinds) != 1:
        raise ValueError(f"features must have one dtype, width and device, got {', '.join(map(str, kinds)) or 'none'}")
    counts = [len(group) for group in memories]
    if len(set(counts)) > 1:
        raise ValueError(f"features must have equally many memories each, got {', '.join(map(str, counts))}")


def by_memory(groups: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """One flat list, as kernels take it, of what each of G features has for each memory.

    The first memory of all features comes first, then the second: entry ``i * G + g`` is memory i of features g.
    """
    return [x for of_memory in zip(*groups, strict=True) for x in of_memory]


def of_features(features: Sequence[torch.Tensor], *terms: Sequence[torch.Tensor]) -> Iterator[list[tuple]]:
    """The inverse: for each of ``features``, by memory, itself and that memory's entry of each of ``terms``."""
    for n, x in enumerate(features):
        yield [(x, *term) for term in zip(*(entries[n :: len(features)] for entries in terms), strict=True)]


def by_features(x: torch.Tensor, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """``[n, R, ...]``, of the R rows of all features and their n memories, as ``[n, ..., B, ...]`` of each features."""
    pieces = x.split([one.shape[:-1].numel() for one in features], dim=1)
    return [piece.view(len(x), *one.shape[:-1], *x.shape[2:]) for piece, one in zip(pieces, features, strict=True)]


def split_rows(x: torch.Tensor, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The same in the order of :func:`by_memory`, ``[..., B, ...]`` each."""
    return by_memory([piece.unbind(0) for piece in by_features(x, features)])


def pooled_parts(tokens: torch.Tensor | None, queries: torch.Tensor | None) -> int:
    """Into how many parts ``salcr::pool`` cuts its maps, given tokens ``[P, D]``, queries ``[B, P, D]`` or neither."""
    given = tokens if queries is None else queries
    return 0 if given is None else given.shape[-2]


def like(x: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
    """``gradient`` in the memory format of ``x``, zeros where there is none."""
    if gradient is None:
        return torch.zeros_like(x)
    return gradient if gradient.stride() == x.stride() else torch.empty_like(x).copy_(gradient)
