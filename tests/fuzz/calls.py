"""One call of one operator on all its backends, and what is wrong with them."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from salcr import ops
from salcr.ops import _dispatch
from tests.fuzz.draw import Draw
from tests.fuzz.judges import Arguments, Case, Values
from tests.fuzz.operators import OPERATORS

NAMES = sorted(OPERATORS)
AUTO_EVERY = 7  # calls: it is one of the others
ON_A_CPU = ("reference", "eager", "cpp", "numba")
WORKS, REFUSES, CANNOT, BREAKS = "works", "refuses", "cannot run here", "breaks"


@dataclass(frozen=True)
class Outcome:
    kind: str
    values: Values
    message: str
    gradients: int = 0  # the last so many of the values


def prepare() -> None:
    """One thread; fresh memory filled with NaN, so that a forgotten element shows."""
    torch.set_num_threads(1)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_deterministic_debug_mode("error")


def operator_of(number: int) -> str:
    return NAMES[number % len(NAMES)]


def drawn(seed: int, number: int) -> Arguments:
    """The arguments of a call, made anew."""
    d = Draw(seed, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's, about sparse tensors
        return d.spoiled(OPERATORS[operator_of(number)].draw(d))


def finding(seed: int, number: int) -> str | None:
    """What is wrong with call ``number``, or None: it works everywhere and alike, or is refused everywhere."""
    name = operator_of(number)
    names = backends(name)
    if number % AUTO_EVERY == 0:
        names = ["auto", *names]
    arguments = drawn(seed, number)  # which run leaves as they are, but for one that is changed in place
    again = OPERATORS[name].changed is not None
    outcomes = {impl: run(name, drawn(seed, number) if again else arguments, impl) for impl in names}
    for impl, outcome in outcomes.items():
        if outcome.kind == BREAKS:
            return f"{impl}: {outcome.message}"
    told = {impl: outcome for impl, outcome in outcomes.items() if outcome.kind != CANNOT}
    if len({outcome.kind for outcome in told.values()}) > 1:
        return "; ".join(f"{impl} {outcome.kind} {outcome.message}" for impl, outcome in told.items())
    if told["reference"].kind == REFUSES:
        return _unnamed(name, arguments, told)
    try:
        return _different(name, arguments, told, number)
    except Exception as error:  # a judge that cannot read what an operator accepted
        return f"accepted, and cannot be judged: {type(error).__name__}: {error}"


def backends(name: str) -> list[str]:
    return [impl for impl, lacks in _dispatch.table()[name].items() if impl in ON_A_CPU and lacks is None]


def run(name: str, arguments: Arguments, impl: str) -> Outcome:
    """One backend's results, with gradients of a weighted sum for the arguments that require one, or its error."""
    before = [(x, x.detach().clone()) for x in _tensors(arguments.values())]
    outcome = _outcome(name, arguments, impl)
    target = arguments.get(OPERATORS[name].changed) if outcome.kind == WORKS else None
    for x, copy in before:
        if not (_same(x, copy) or (target is not None and _overlap(x, target))):
            return Outcome(BREAKS, [], f"changes an argument of shape {tuple(x.shape)} and {outcome.kind}")
    return outcome


def _outcome(name: str, arguments: Arguments, impl: str) -> Outcome:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            results, gradients = _results(name, dict(arguments), impl)
            return Outcome(WORKS, [x.detach() for x in results + gradients], "", len(gradients))
    except _dispatch.BackendError as error:
        return Outcome(CANNOT if f"impl={impl!r}" in str(error) else BREAKS, [], f"{type(error).__name__}: {error}")
    except (ValueError, TypeError) as error:
        return Outcome(REFUSES, [], f"{type(error).__name__}: {error}")
    except Exception as error:
        return Outcome(BREAKS, [], f"{type(error).__name__}: {error}")


def _results(name: str, arguments: Arguments, impl: str) -> tuple[Values, Values]:
    wanted = [x for x in _tensors(arguments.values()) if x.requires_grad]
    sets = arguments.pop("sets", [])
    found = getattr(ops, name)(*(sets if isinstance(sets, list) else (sets,)), **arguments, impl=impl)
    values = _tensors([found])
    smooth = [x for x in values if x.requires_grad]
    if smooth and wanted:
        weights = [torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype, device=x.device).view(x.shape) for x in smooth]
        gradients = torch.autograd.grad(smooth, wanted, weights, allow_unused=True)
        return values, [x for x in gradients if x is not None]
    return values, []


def _tensors(values: Any) -> Values:
    found = []
    for x in values:
        if isinstance(x, torch.Tensor) and x.layout == torch.sparse_csr:
            found += [x.crow_indices(), x.col_indices(), x.values()]
        elif isinstance(x, torch.Tensor):
            found.append(x)
        elif isinstance(x, np.ndarray):
            found.append(torch.from_numpy(x) if x.dtype.kind in "fiu" and x.dtype.itemsize < 16 else torch.empty(0))
        elif isinstance(x, ops.RankingResult):
            found += [torch.as_tensor(y) for y in (x.cmc, x.mAP, x.mINP, x.valid_queries)]
        elif isinstance(x, (list, tuple)):
            found += _tensors(x)
    return found


def _same(x: torch.Tensor, y: torch.Tensor) -> bool:
    if x.is_meta or x.layout != torch.strided or x.dtype == torch.float8_e4m3fn:
        return True
    return bool(((x == y) | ((x != x) & (y != y))).all())  # a NaN is still one


def _overlap(x: torch.Tensor, y: torch.Tensor) -> bool:
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


def _unnamed(name: str, arguments: Arguments, told: dict[str, Outcome]) -> str | None:
    known = (*arguments, *OPERATORS[name].says)
    for impl, outcome in told.items():
        if not any(word in outcome.message for word in known):
            return f"{impl} names no argument: {outcome.message}"
    return None


def _different(name: str, arguments: Arguments, told: dict[str, Outcome], seed: int) -> str | None:
    entry, expected = OPERATORS[name], told["reference"].values
    kinds = {impl: [(x.shape, x.dtype, x.device) for x in outcome.values] for impl, outcome in told.items()}
    for impl, kind in kinds.items():
        if kind != kinds["reference"] and not entry.ragged:
            return f"{impl} returns {kind}, reference {kinds['reference']}"
    if any(x.is_meta for x in expected):
        return None
    terms = sum(x.numel() for x in _tensors(arguments.values()))

    def run_reference(others: Arguments) -> Values | None:
        outcome = run(name, others, "reference")
        return outcome.values if outcome.kind == WORKS else None

    case = Case(arguments, run_reference, seed, terms, entry.magnitude(arguments), told["reference"].gradients)
    for impl, outcome in told.items():
        problem = entry.judge(case, outcome.values, expected)
        if problem:
            return f"{impl}: {problem}"
    return None
