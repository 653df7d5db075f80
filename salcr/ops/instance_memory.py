"""Instance memories: nearest rows and contrast with sets of rows (SPEC 4, GPCR)."""

import torch

from salcr import reference
from salcr.ops._backends import add_backend, check_impl, pick
from salcr.ops._checks import check_positive, check_same, check_tensor
from salcr.ops._register import register
from salcr.ops.index_sets import check_rows
from salcr.reference.instance_memory import set_contrast_backward, set_contrast_forward


def instance_neighbors(
    features: torch.Tensor, memory: torch.Tensor, k: int = 30, *, temperature: float = 0.05, impl: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The memory rows nearest to every feature, as a set, and the log-sum-exp of all its logits.

    Equivalent eager expression::

        logits = normalize(features, dim=-1) @ memory.mT / temperature
        bound = logits.sort(dim=-1, descending=True).values[..., k]     # the (k+1)-th largest value
        neighbours of row b: (logits[b] > bound[b]).nonzero()           # k >= N: all rows
        lse = logits.logsumexp(-1)

    Equal values at the bound are all left out, so a row has ``k`` neighbours or fewer. Products of half precision
    arguments are rounded to half precision, which makes such ties frequent: search in float32.

    Args:
        features: ``[B, D]`` or ``[P, B, D]``, float; need not be normalised. Read without a gradient.
        memory: ``[N, D]`` or ``[P, N, D]`` of the same dtype: unit rows, one an image.
        k: the most neighbours a row can have; 30 in the paper. It may exceed ``N``.
        temperature: divides the cosine; 0.05 in the paper.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``(indices, lse)``: ``[..., B, k]`` int64, ascending and -1 padded at the end, as the set operators take them;
        ``[..., B]``, float32 (float64 for float64 features). Neither has a gradient.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device, temperature or k.

    Source: SPEC 4, GPCR.
    """
    _check_banks(features, memory)
    check_positive("k", k)
    check_positive("temperature", temperature)
    check_impl(impl)
    return torch.ops.salcr.instance_neighbors(features.detach(), memory.detach(), k, temperature, impl)


def set_contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor,
    *,
    temperature: float = 0.05,
    lse: torch.Tensor | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """Contrast of every feature with a set of memory rows: minus the log of the probability of the whole set.

    Equivalent eager expression, over the rows ``b`` that have a positive::

        logits = normalize(features, dim=-1) @ memory.mT / temperature
        loss = mean(logits[b].logsumexp(0) - logits[b, positives[b]].logsumexp(0) for b in rows)

    With a leading part axis the mean is taken within each part first and then over parts. A part without any such row
    counts as 0 and has a gradient of 0. Gradients flow to ``features`` only.

    Args:
        features: ``[B, D]`` or ``[P, B, D]``, float; need not be normalised.
        memory: ``[N, D]`` or ``[P, N, D]`` of the same dtype: unit rows, one an image. It gets no gradient.
        positives: ``[B, m]`` or ``[P, B, m]``, int64 in ``[0, N)``, rows ascending without duplicates and -1 padded at
            the end, as the set operators return them.
        temperature: divides the cosine; 0.05 in the paper.
        lse: ``[B]`` or ``[P, B]``, the second result of :func:`instance_neighbors` for the same features, memory and
            temperature. It saves the forward pass over the memory; the gradient is the same with and without.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        A scalar.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device or temperature; on the CPU also a row of positives that is
            not in the format above (on a GPU its loss is undefined, and an index ``>= N`` is not allowed).

    Source: SPEC 4, GPCR.
    """
    _check_banks(features, memory)
    check_tensor("positives", positives, ndim=(2, 3) if features.ndim == 3 else 2, floating=False)
    check_same("positives", positives, "features", features, dtype=False)
    if positives.shape[:-1] != features.shape[:-1] and positives.shape[:-1] != features.shape[-2:-1]:
        raise ValueError(f"positives {tuple(positives.shape)} do not fit features {tuple(features.shape)}")
    check_positive("temperature", temperature)
    check_impl(impl)
    if memory.requires_grad:
        raise ValueError("memory requires a gradient, and set_contrast gives it none: pass memory.detach()")
    if lse is not None:
        check_tensor("lse", lse, ndim=features.ndim - 1)
        check_same("lse", lse, "features", features, dtype=False)
        if lse.dtype != _lse_dtype(features):
            raise TypeError(f"lse must be {_lse_dtype(features)} for {features.dtype} features, got {lse.dtype}")
        if lse.shape != features.shape[:-1]:
            raise ValueError(f"lse {tuple(lse.shape)} does not fit features {tuple(features.shape)}")
        lse = lse.detach()
    return _SetContrast.apply(features, memory, positives, lse, temperature, impl)


class _SetContrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, memory, positives, lse, temperature, impl):
        loss, lse = torch.ops.salcr.set_contrast(features, memory, positives, lse, temperature, impl)
        ctx.save_for_backward(features, memory, positives, lse)
        ctx.options = temperature, impl
        return loss

    @staticmethod
    def backward(ctx, gradient):
        gradient = torch.ops.salcr.set_contrast_backward(gradient, *ctx.saved_tensors, *ctx.options)
        return gradient, None, None, None, None, None


def _check_banks(features: torch.Tensor, memory: torch.Tensor) -> None:
    check_tensor("features", features, ndim=(2, 3))
    check_tensor("memory", memory, ndim=features.ndim)
    check_same("memory", memory, "features", features)
    if memory.shape[-1] != features.shape[-1] or memory.shape[:-2] != features.shape[:-2]:
        raise ValueError(f"memory {tuple(memory.shape)} does not fit features {tuple(features.shape)}")


def _lse_dtype(features: torch.Tensor) -> torch.dtype:
    return torch.promote_types(features.dtype, torch.float32)


def _neighbors(features, memory, k, temperature, impl):
    return pick("instance_neighbors", impl, features)(features, memory, k, temperature=temperature)


def _contrast(features, memory, positives, lse, temperature, impl):
    check_rows("positives", positives)
    if positives.device.type == "cpu" and positives.max() >= memory.shape[-2]:
        raise ValueError(f"positives must be below {memory.shape[-2]}, got {int(positives.max())}")
    loss, total = pick("set_contrast", impl, features)(features, memory, positives, lse, temperature)
    return loss, total.clone() if total is lse else total


def _contrast_backward(gradient, features, memory, positives, lse, temperature, impl):
    backward = pick("set_contrast_backward", impl, features)
    return backward(gradient, features, memory, positives, lse, temperature).contiguous()


def _fake_neighbors(features, memory, k, temperature, impl):
    lead = features.shape[:-1]
    return (
        features.new_empty(*lead, k, dtype=torch.int64),
        features.new_empty(lead, dtype=_lse_dtype(features)),
    )


def _fake_contrast(features, memory, positives, lse, temperature, impl):
    return features.new_empty(()), features.new_empty(features.shape[:-1], dtype=_lse_dtype(features))


def _fake_contrast_backward(gradient, features, memory, positives, lse, temperature, impl):
    return features.new_empty(features.shape)


add_backend("instance_neighbors", "reference", reference.instance_neighbors)
add_backend("set_contrast", "reference", set_contrast_forward)
add_backend("set_contrast_backward", "reference", set_contrast_backward)
_SETS = "Tensor features, Tensor memory, Tensor positives"
register(
    "instance_neighbors",
    "(Tensor features, Tensor memory, SymInt k, float temperature, str impl) -> (Tensor, Tensor)",
    _neighbors,
    _fake_neighbors,
)
register(
    "set_contrast",
    f"({_SETS}, Tensor? lse, float temperature, str impl) -> (Tensor, Tensor)",
    _contrast,
    _fake_contrast,
)
register(
    "set_contrast_backward",
    f"(Tensor gradient, {_SETS}, Tensor lse, float temperature, str impl) -> Tensor",
    _contrast_backward,
    _fake_contrast_backward,
)
