"""Instance memories: nearest rows and contrast with sets of rows."""

from collections.abc import Sequence

import torch

from salcr.defaults import NEIGHBORS, TEMPERATURE
from salcr.ops._checks import check_choice, check_integer, check_same, check_tensor, wide_dtype
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._parts import (
    HALF_TO_SINGLE,
    SINGLE_AND_DOUBLE,
    check_parts,
    check_temperature,
    followed,
    per_row,
)
from salcr.ops._precision import check_precision, in_float32, multiplied
from salcr.ops._register import Differentiable, apply, first_derivative, register, register_backward
from salcr.ops.backends.cpp import instance_memory as _cpp
from salcr.ops.backends.eager import instance_memory as _eager
from salcr.ops.backends.reference import instance_memory as _formula
from salcr.ops.backends.triton import instance_memory as _triton
from salcr.ops.index_sets import check_rows, unite_sets

OVER = ("union", "each")
MOST_NEIGHBORS = 2**20  # a row of the result has room for all that are asked for


def instance_neighbors(
    features: torch.Tensor,
    memory: torch.Tensor,
    k: int = NEIGHBORS,
    *,
    temperature: float = TEMPERATURE,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The memory rows nearest to every feature, as a set, and the log-sum-exp of all its logits.

    Equivalent eager expression::

        logits = normalize(features, dim=-1) @ memory.mT / temperature
        bound = logits.sort(dim=-1, descending=True).values[..., k]     # the (k+1)-th largest value
        neighbours of row b: (logits[b] > bound[b]).nonzero()           # k >= N: all rows
        lse = logits.logsumexp(-1)

    Equal values at the bound are all left out, so a row has ``k`` neighbours or fewer. PyTorch rounds products of half
    precision arguments to half precision, which makes such ties frequent: search in float32. (The Triton backend keeps
    them in float32.)

    Args:
        features: ``[B, D]`` or ``[P, B, D]``, float; need not be normalised. Read without a gradient.
        memory: ``[N, D]`` or ``[P, N, D]`` of the same dtype: unit rows, one an image.
        k: the most neighbours a row can have; 30 in the paper. It may exceed ``N``, up to 2**20.
        temperature: divides the cosine; 0.05 in the paper.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``(indices, lse)``: ``[..., B, k]`` int64, ascending and -1 padded at the end, as the set operators take them;
        ``[..., B]``, float32 (float64 for float64 features). Neither has a gradient.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device, temperature or k.

    Example:
        >>> memory = torch.eye(4)
        >>> indices, lse = ops.instance_neighbors(torch.tensor([[1.0, 0.5, 0.0, 0.2]]), memory, k=2)
        >>> indices.tolist()
        [[0, 1]]

    Source: docs/method.md, "GPCR".
    """
    memory, impl = _check_search(features, memory, k, temperature, impl)
    with torch.no_grad():
        return tuple(torch.ops.salcr.instance_neighbors(features, memory, k, temperature, impl))


def instance_search(
    features: torch.Tensor,
    memory: torch.Tensor,
    k: int = NEIGHBORS,
    *,
    temperature: float = TEMPERATURE,
    precision: str = "auto",
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """:func:`instance_neighbors` and the mean row under the softmax, which :func:`set_contrast` needs for its gradient.

    Equivalent eager expression::

        indices, lse = instance_neighbors(features, memory, k, temperature=temperature)
        mean_row = (normalize(features, dim=-1) @ memory.mT / temperature).softmax(dim=-1) @ memory

    Both passes of :func:`set_contrast` then read the memory rows of the positives only.

    Args:
        features: ``[B, D]`` or ``[P, B, D]``, float; need not be normalised. Read without a gradient.
        memory: ``[N, D]`` or ``[P, N, D]`` of the same dtype: unit rows, one an image.
        k: the most neighbours a row can have; 30 in the paper. It may exceed ``N``, up to 2**20.
        temperature: divides the cosine; 0.05 in the paper.
        precision: of the product that makes the mean row of float32 rows: ``"float32"``, on tensor cores in three
            products of TF32; ``"tf32"``, in one; ``"bfloat16"``, weights and memory rounded to that and the sum in
            float32; ``"auto"``, bfloat16 where autocast computes in that, and else float32. Backends without tensor
            cores make it in float32. Indices and ``lse`` are those of float32 with any.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``(indices, lse, mean_row)``: as :func:`instance_neighbors`, and ``[..., B, D]`` of the dtype of ``lse``. None
        has a gradient.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device, temperature or k.

    Source: docs/method.md, "GPCR".
    """
    memory, impl = _check_search(features, memory, k, temperature, impl)
    options = temperature, check_precision(precision, features), impl
    with torch.no_grad():
        return tuple(torch.ops.salcr.instance_search(features, memory, k, *options))


def set_contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor | Sequence[torch.Tensor],
    *,
    over: str = "union",
    temperature: float = TEMPERATURE,
    precision: str = "auto",
    lse: torch.Tensor | None = None,
    mean_row: torch.Tensor | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """Contrast of every feature with a set of memory rows: minus the log of the probability of the whole set.

    Equivalent eager expression, over the rows ``b`` that have a positive::

        logits = normalize(features, dim=-1) @ memory.mT / temperature
        loss = mean(logits[b].logsumexp(0) - logits[b, positives[b]].logsumexp(0) for b in rows)

    and of several sets::

        union = set_contrast(features, memory, unite_sets(*positives))
        each = torch.stack([set_contrast(features, memory, one) for one in positives]).mean()

    The union asks that the probability of all sets together be large, however it is shared out among them; each set
    for itself asks for a share of its own, as where a row has positives in both modalities. The sums over the whole
    memory are made once for all sets.

    With a leading part axis the mean is taken within each part first and then over parts. A part without any such row
    counts as 0 and has a gradient of 0. Gradients flow to ``features`` only.

    Args:
        features: ``[B, D]`` or ``[P, B, D]``, float; need not be normalised.
        memory: ``[N, D]`` or ``[P, N, D]`` of the same dtype (under autocast of any, and the features' is taken): unit
            rows, one an image. It gets no gradient.
        positives: ``[B, m]`` or ``[P, B, m]``, int64 in ``[0, N)``, rows ascending without duplicates and -1 padded at
            the end, as the set operators return them. Or several such sets, whose widths may differ.
        over: of several sets: ``"union"``, one contrast with what is in any of them, or ``"each"``, the mean of a
            contrast with each. A set that is empty in all rows counts there as 0, as such a part does.
        temperature: divides the cosine; 0.05 in the paper.
        precision: of the products of float32 rows, as in :func:`cluster_contrast`. With ``over="each"`` and several
            sets it is that of the mean row, as in :func:`instance_search`. With ``lse`` given, which is of float32
            products, all products are float32.
        lse: ``[B]`` or ``[P, B]``, the second result of :func:`instance_neighbors` for the same features, memory and
            temperature. It saves the forward pass over the memory; the gradient is the same with and without.
        mean_row: ``[B, D]`` or ``[P, B, D]``, the third result of :func:`instance_search` for the same features,
            memory and temperature. It saves the backward pass over the memory; only with ``lse``.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        A scalar.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device, temperature, precision or ``over``; no set; on the CPU also
            a row of positives that is not in the format above, or an index ``>= N`` (on a GPU its loss is undefined).

    Example:
        >>> memory, features = torch.eye(4), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
        >>> loss = ops.set_contrast(features, memory, torch.tensor([[0, -1]]))  # one of two rows that are equally near
        >>> round(loss.item(), 4)  # log(2)
        0.6931

    Source: docs/method.md, "GPCR".
    """
    memory = followed(memory, features)
    check_parts(features, memory)
    sets = _sets(positives, features)
    check_choice("over", over, OVER)
    check_temperature(temperature)
    impl = check_impl(impl)
    if memory.requires_grad:
        raise ValueError("memory requires a gradient, and set_contrast gives it none: pass memory.detach()")
    if mean_row is not None and lse is None:
        raise ValueError("mean_row is given without lse; instance_search returns both")
    lse = _known("lse", lse, features, features.shape[:-1])
    mean_row = _known("mean_row", mean_row, features, features.shape)
    if len(sets) > 1 and over == "union":
        sets = [unite_sets(*sets)]
    precision = check_precision(precision, features)
    if len(sets) > 1 and mean_row is None:
        lse, mean_row = _sums(features, memory, lse, temperature, precision, impl)
    precision = precision if lse is None else "float32"
    known = lse, mean_row, temperature, precision, impl
    (memory,) = multiplied(precision, memory)
    losses = [apply(_SetContrast, features, memory, one, *known)[0] for one in sets]
    return losses[0] if len(sets) == 1 else torch.stack(losses).mean()


class _SetContrast(Differentiable):
    """Loss, and the LSE where it was not given."""

    @staticmethod
    def forward(features, memory, positives, lse, mean_row, *options):
        return torch.ops.salcr.set_contrast(features, memory, positives, lse, *options)

    @staticmethod
    def setup_context(ctx, inputs, output):
        features, memory, positives, lse, mean_row, *ctx.options = inputs
        ctx.save_for_backward(features, memory, positives, output[1] if lse is None else lse, mean_row)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gradient, _):
        if gradient is None:
            return (None,) * 8
        arguments = gradient, *ctx.saved_tensors, *ctx.options
        return first_derivative("set_contrast", _formula.set_contrast_backward, arguments), *[None] * 7


def check_positives(positives: torch.Tensor, memory: torch.Tensor) -> None:
    """On the CPU: ``positives`` are sets of rows of ``memory``, in the format of the set operators."""
    check_rows("positives", positives)
    if positives.device.type == "cpu" and positives.max() >= memory.shape[-2]:
        raise ValueError(f"positives must be below {memory.shape[-2]}, got {int(positives.max())}")


def _sets(positives: torch.Tensor | Sequence[torch.Tensor], features: torch.Tensor) -> list[torch.Tensor]:
    if isinstance(positives, Sequence) and not isinstance(positives, str):
        sets = list(positives)
        if not sets:
            raise ValueError("positives is an empty sequence of sets")
        for n, one in enumerate(sets):
            per_row(f"positives[{n}]", one, features, axes=1)
        return sets
    per_row("positives", positives, features, axes=1)
    return [positives]


def _sums(features, memory, lse, temperature, precision, impl):
    """Over the whole memory, for the passes of several contrasts: the log-sum-exp, and the mean row for a gradient."""
    learning = features.requires_grad and torch.is_grad_enabled()
    if lse is not None and not learning:
        return lse, None
    given = features.detach(), memory, 1, temperature
    with torch.no_grad():
        if not learning:
            return torch.ops.salcr.instance_neighbors(*given, impl)[1], None
        _, total, mean_row = torch.ops.salcr.instance_search(*given, precision, impl)
    return total if lse is None else lse, mean_row


def _check_search(
    features: torch.Tensor, memory: torch.Tensor, k: int, temperature: float, impl: str
) -> tuple[torch.Tensor, str]:
    """The memory in the dtype to search it in, and the backend's name to use."""
    memory = followed(memory, features)
    check_parts(features, memory)
    check_integer("k", k, 1, MOST_NEIGHBORS)
    check_temperature(temperature)
    return memory, check_impl(impl)


def _known(name: str, x: torch.Tensor | None, features: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    """A result of the search that was given on, without its history."""
    if x is None:
        return None
    check_tensor(name, x, ndim=len(shape))
    check_same(name, x, "features", features, dtype=False)
    if x.dtype != wide_dtype(features):
        raise TypeError(f"{name} must be {wide_dtype(features)} for {features.dtype} features, got {x.dtype}")
    if x.shape != shape:
        raise ValueError(f"{name} {tuple(x.shape)} does not fit features {tuple(features.shape)}")
    return x.detach() if x.requires_grad else x


def _neighbors(features, memory, k, temperature, impl):
    return pick("instance_neighbors", impl, features)(features, memory, k, temperature, mean=False)[:2]


def _neighbors_and_mean(features, memory, k, temperature, precision, impl):
    search = pick("instance_search", impl, features)
    options = dict(precision=precision) if search is _triton.search else {}
    return search(features, memory, k, temperature, mean=True, **options)


def _contrast(features, memory, positives, lse, temperature, precision, impl):
    check_positives(positives, memory)
    loss, total = pick("set_contrast", impl, features)(features, memory, positives, lse, temperature, precision)
    return loss, total if lse is None else total.new_empty(0)


def _fake_neighbors(features, memory, k, temperature, impl):
    lead = features.shape[:-1]
    return features.new_empty(*lead, k, dtype=torch.int64), features.new_empty(lead, dtype=wide_dtype(features))


def _fake_neighbors_and_mean(features, memory, k, temperature, precision, impl):
    mean_row = features.new_empty(features.shape, dtype=wide_dtype(features))
    return *_fake_neighbors(features, memory, k, temperature, impl), mean_row


def _fake_contrast(features, memory, positives, lse, *_):
    shape = features.shape[:-1] if lse is None else (0,)
    return features.new_empty(()), features.new_empty(shape, dtype=wide_dtype(features))


for _name, _module, _dtypes in (
    ("cpp", _cpp, SINGLE_AND_DOUBLE),
    ("triton", _triton, HALF_TO_SINGLE),
    ("eager", _eager, None),
    ("reference", _formula, None),
):
    add_backend("instance_neighbors", _name, _module.search, dtypes=_dtypes)
    add_backend("instance_search", _name, _module.search, dtypes=_dtypes)
    _forward, _backward = _module.set_contrast, _module.set_contrast_backward
    if _name != "triton":
        _forward, _backward = in_float32(_forward), in_float32(_backward, 1)
    add_backend("set_contrast", _name, _forward, dtypes=_dtypes)
    add_backend("set_contrast_backward", _name, _backward, dtypes=_dtypes)
_SETS = "Tensor features, Tensor memory, Tensor positives"
_SEARCH = "Tensor features, Tensor memory, SymInt k, float temperature"
register("instance_neighbors", f"({_SEARCH}, str impl) -> (Tensor, Tensor)", _neighbors, _fake_neighbors)
register(
    "instance_search",
    f"({_SEARCH}, str precision, str impl) -> (Tensor, Tensor, Tensor)",
    _neighbors_and_mean,
    _fake_neighbors_and_mean,
)
register(
    "set_contrast",
    f"({_SETS}, Tensor? lse, float temperature, str precision, str impl) -> (Tensor, Tensor)",
    _contrast,
    _fake_contrast,
)
register_backward(
    "set_contrast",
    f"(Tensor gradient, {_SETS}, Tensor lse, Tensor? mean_row, float temperature, str precision, str impl) -> Tensor",
)
