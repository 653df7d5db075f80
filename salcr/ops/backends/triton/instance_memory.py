"""Instance memories on the GPU, in Triton."""

from collections.abc import Sequence
from typing import Any

import torch

from salcr.ops._parts import with_parts
from salcr.ops.backends.triton.cluster_memory import spread


def search(
    features: torch.Tensor,
    memory: torch.Tensor,
    k: int,
    temperature: float,
    *,
    mean: bool,
    precision: str = "float32",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Neighbours, log-sum-exp and (``mean``) ``softmax @ memory``; see :func:`salcr.ops.instance_search`."""
    from salcr.kernels.instance_memory import instance_search

    rows, memories = with_parts(features, memory)
    options = dict(temperature=temperature, mean=mean, **_of_mean_rows([memories], [], precision))
    indices, lse, mean_row = instance_search([rows], [memories], k, **options)
    lead = features.shape[:-1]
    return indices.view(*lead, k), lse.view(lead), mean_row.view(features.shape) if mean else None


def set_contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor,
    lse: torch.Tensor | None,
    temperature: float,
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and LSE of all logits; see :func:`salcr.ops.set_contrast`."""
    from salcr.kernels.cluster_memory import contrast_forward

    rows, memories = with_parts(features, memory)
    known = None if lse is None else lse.contiguous()
    options = dict(temperature=temperature, lse=known, tf32=precision == "tf32")
    (loss,), total = contrast_forward([rows], [memories], spread([positives], [rows]), **options)
    return loss, lse if total is known else total.view(features.shape[:-1])


def set_contrast_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor,
    lse: torch.Tensor,
    mean_row: torch.Tensor | None,
    temperature: float,
    precision: str,
) -> torch.Tensor:
    """Gradient for ``features``; ``mean_row`` is ``softmax(all) @ memory`` where it is known."""
    from salcr.kernels.cluster_memory import contrast_backward

    rows, memories = with_parts(features, memory)
    mean_row = None if mean_row is None else mean_row.contiguous()
    positives, lse = spread([positives], [rows]), lse.contiguous()
    options = dict(temperature=temperature, mean_row=mean_row, tf32=precision == "tf32")
    (found,) = contrast_backward([gradient], [rows], [memories], positives, lse, **options)
    return found.view(features.shape)


def searches(
    features: Sequence[torch.Tensor],
    memories: Sequence[torch.Tensor],
    rounded: Sequence[torch.Tensor],
    k: int,
    temperature: float,
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``salcr::instance_searches``."""
    from salcr.kernels.instance_memory import instance_search

    banks = with_parts(*memories)
    options = dict(temperature=temperature, mean=True, **_of_mean_rows(banks, with_parts(*rounded), precision))
    return instance_search(with_parts(*features), banks, k, **options)


def set_contrasts(
    features: Sequence[torch.Tensor],
    memories: Sequence[torch.Tensor],
    positives: Sequence[torch.Tensor],
    lse: torch.Tensor,
    temperature: float,
) -> list[torch.Tensor]:
    """Losses of each of the features; see ``salcr::set_contrasts``."""
    from salcr.kernels.cluster_memory import contrast_forward

    rows, banks = with_parts(*features), with_parts(*memories)
    sets = spread(positives, rows)
    return contrast_forward(rows, banks, sets, temperature=temperature, lse=lse.contiguous())[0]


def set_contrasts_backward(
    gradients: Sequence[torch.Tensor],
    features: Sequence[torch.Tensor],
    memories: Sequence[torch.Tensor],
    positives: Sequence[torch.Tensor],
    lse: torch.Tensor,
    mean_row: torch.Tensor,
    temperature: float,
) -> list[torch.Tensor]:
    """Gradients for ``features``."""
    from salcr.kernels.cluster_memory import contrast_backward

    rows, banks = with_parts(*features), with_parts(*memories)
    options = dict(temperature=temperature, mean_row=mean_row.contiguous())
    found = contrast_backward(gradients, rows, banks, spread(positives, rows), lse.contiguous(), **options)
    return [x.view(given.shape) for x, given in zip(found, features, strict=True)]


def _of_mean_rows(memories: Sequence[torch.Tensor], rounded: Sequence[torch.Tensor], precision: str) -> dict[str, Any]:
    """How a search multiplies weights with memories: in bfloat16 with ``rounded``, or what is made of them here."""
    if precision == "bfloat16":
        return dict(rounded=rounded or [memory.bfloat16() for memory in memories])
    return dict(tf32=precision == "tf32")
