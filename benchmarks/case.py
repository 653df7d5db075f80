"""What a row of the registry is, and the checks that several families share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Case:
    """One operator, one group of calls or one whole phase, at sizes of real runs.

    Args:
        name: unique; ``--only`` matches it.
        note: the sizes, in words.
        make_inputs: ``(device, quick) -> inputs``, a tuple of the positional arguments of variants and floors, the same
            at every call; ``quick`` sizes only show that a case works.
            Every variant gets a copy of its own, which it may change in place.
        variants: name → function of the inputs. The first is the one that the others have to match. A variant is named
            ``published`` (:mod:`salcr.reference.published`), like the ``impl`` that it asks its operators for, or like
            the library it calls: a peer, which imports that library inside the function.
        check: ``(outputs, outputs_of_the_first)``, raises where they do not match; the record keeps a number that it
            returns as the variant's ``error``.
        floor_bytes: of the inputs: what has to be read and written at least.
        floor_flops: of the inputs: floating-point operations of the matrix products it cannot do without.
        phase: whether it is a whole phase of training or evaluation rather than an operator.
    """

    name: str
    note: str
    make_inputs: Callable[[str, bool], Sequence]
    variants: dict[str, Callable]
    check: Callable[[object, object], float | None]
    floor_bytes: Callable[..., int] | None = None
    floor_flops: Callable[..., int] | None = None
    phase: bool = False


def close(outputs: torch.Tensor | Sequence[torch.Tensor], expected: torch.Tensor | Sequence[torch.Tensor]) -> None:
    """Each tensor, in units of the largest magnitude expected in it, within PyTorch's tolerances of its dtype.

    In half precision, where small elements are differences of large ones, within four epsilons of that magnitude.
    """
    if isinstance(expected, torch.Tensor):
        outputs, expected = (outputs,), (expected,)
    for x, y in zip(outputs, expected, strict=True):
        unit, half = y.abs().max(), y.dtype in (torch.bfloat16, torch.float16)
        tolerances = {"rtol": 0.0, "atol": 4 * torch.finfo(y.dtype).eps} if half else {}
        torch.testing.assert_close(x / unit, y / unit, **tolerances)


def close_in(epsilon: float, outputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """The largest error in units of the largest magnitude expected in a tensor.

    It may be four times ``epsilon``, that of the numbers that are multiplied.
    """
    error = max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(outputs, expected, strict=True))
    assert error <= 4 * epsilon, f"error {error:.3g} of the largest magnitude, {4 * epsilon:.3g} allowed"
    return error


def same_labels(outputs: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(outputs.cpu(), expected.cpu()), f"{(outputs.cpu() != expected.cpu()).sum()} labels differ"


def same_graph(outputs: torch.Tensor, expected: torch.Tensor, max_distance: float) -> None:
    """The same distances up to ``max_distance``, dense or CSR; pairs within 1e-5 of it may come or go."""
    outputs, expected = _near(outputs, max_distance), _near(expected, max_distance)
    unsure = (torch.minimum(outputs, expected) - max_distance).abs() <= 1e-5
    torch.testing.assert_close(outputs.masked_fill(unsure, 0), expected.masked_fill(unsure, 0))


def _near(distances: torch.Tensor, max_distance: float) -> torch.Tensor:
    if distances.layout == torch.strided:
        return distances.where(distances <= max_distance, torch.inf)
    dense = distances.values().new_full(distances.shape, torch.inf)
    rows = torch.arange(len(dense), device=dense.device).repeat_interleave(distances.crow_indices().diff())
    dense[rows, distances.col_indices()] = distances.values()
    return dense
