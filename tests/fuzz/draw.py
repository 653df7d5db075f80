"""Arguments by chance: mostly right, with values, layouts and types that an operator must bear or refuse."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CONTENTS = ("plain", "ties", "duplicates", "zero row", "tiny", "huge", "nan", "inf")
LAYOUTS = ("contiguous", "transposed", "step", "offset", "negative", "expanded")
SPOILED = 0.3  # share of the calls with a wrong argument

WRONG_INTEGERS = (0, -1, 2.0, 1.5, True, 2**31, 2**40, 2**63, 2**64, -(2**63), "3", None, np.int64(2), torch.tensor(2))
WRONG_NUMBERS = (
    0.0,
    -1.0,
    float("nan"),
    float("inf"),
    1e-45,
    1e300,
    "1",
    True,
    None,
    np.float32(0.5),
    torch.tensor(0.5),
)
EXTREME_INDICES = (-7, 10**9, 2**31, 2**63 - 1, -(2**63))


class Draw:
    """Draws one call's arguments; the same again from the same seed and number."""

    def __init__(self, seed: int, number: int):
        self.rng = np.random.default_rng([seed, number])
        self.dtype = self.choice(DTYPES, (0.5, 0.25, 0.1, 0.15))
        self.content = self.choice(CONTENTS, (0.46, 0.15, 0.14, 0.05, 0.05, 0.05, 0.05, 0.05))
        self.odd_layouts = self.chance(0.4)
        self.spoils = self.chance(SPOILED)

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def choice(self, options, shares=None) -> Any:
        if shares is None:
            return options[int(self.rng.random() * len(options))]
        return options[min(int(np.searchsorted(np.cumsum(shares), self.rng.random())), len(options) - 1)]

    def size(self, low: int = 1, high: int = 9) -> int:
        return int(self.rng.integers(low, high + 1))

    def floats(self, *shape: int, positive: bool = False) -> torch.Tensor:
        """A tensor of the call's dtype and content, in some layout."""
        x = torch.from_numpy(self.rng.standard_normal(shape))
        if positive:
            x = x.abs()
        rows = x.flatten(0, -2) if x.ndim > 1 else x.unsqueeze(-1)
        row = self.size(0, len(rows) - 1)
        if self.content == "ties":
            x = x.round()
        elif self.content == "duplicates":
            rows[:] = rows[torch.from_numpy(self.rng.integers(0, max(1, len(rows) // 2), len(rows)))]
        elif self.content == "zero row":
            rows[row] = 0
        elif self.content in ("tiny", "huge"):
            scale = {"tiny": 1e-30, "huge": 1e30}[self.content]
            x = x * scale if self.chance(0.5) else x.index_fill(0, torch.tensor([self.size(0, len(x) - 1)]), scale)
        elif self.content in ("nan", "inf") and self.chance(0.6):
            rows[row, self.size(0, rows.shape[1] - 1)] = float(self.content) * self.choice((-1, 1))
        return self.laid(x.to(self.dtype))

    def unit_rows(self, *shape: int) -> torch.Tensor:
        x = self.floats(*shape)
        return torch.nn.functional.normalize(x, dim=-1) if self.chance(0.8) else x

    def integers(self, *shape: int, low: int, high: int) -> torch.Tensor:
        """int64 in ``[low, high)``, in some layout."""
        return self.laid(torch.from_numpy(self.rng.integers(low, high, shape)))

    def sets(self, *lead: int, width: int, below: int) -> torch.Tensor:
        """Rows of ascending indices, -1 padded, some of them empty."""
        rows = np.full((int(np.prod(lead)), width), -1)
        for row in rows:
            members = np.sort(self.rng.permutation(below)[: self.size(0, min(width, below))])
            row[: len(members)] = members
        return self.laid(torch.from_numpy(rows).view(*lead, width))

    def leaf(self, x: torch.Tensor) -> torch.Tensor:
        return x.requires_grad_() if self.chance(0.5) else x

    def laid(self, x: torch.Tensor) -> torch.Tensor:
        """The values of ``x`` (one row's for "expanded") in other strides, or behind a negative bit."""
        layout = self.choice(LAYOUTS) if self.odd_layouts else "contiguous"
        if layout == "transposed" and x.ndim > 1:
            return x.mT.contiguous().mT
        if layout == "step":
            return torch.stack([x, x + 1], -1).flatten(-2)[..., ::2]
        if layout == "offset":
            return torch.cat([x.new_ones(1), x.flatten()])[1:].view(x.shape)
        if layout == "negative":
            return torch._neg_view(-x)
        if layout == "expanded":
            return x[:1].expand(x.shape)
        return x

    def spoiled(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """``arguments``, or in some calls one of them wrong."""
        if not self.spoils:
            return arguments
        name = self.choice(list(arguments))
        return arguments | {name: self._wrong(arguments[name], arguments)}

    def _wrong(self, value: Any, arguments: dict[str, Any]) -> Any:
        if isinstance(value, torch.Tensor):
            return self._wrong_tensor(value, arguments)
        if isinstance(value, (list, tuple)):
            at = self.size(0, len(value) - 1)
            some = [self._wrong(x, arguments) if n == at else x for n, x in enumerate(value)]
            return self.choice((some, some, some, list(value[1:]), [], None))
        if isinstance(value, bool):
            return self.choice((2, "yes", None, not value))
        if isinstance(value, int):
            return self.choice(WRONG_INTEGERS)
        if isinstance(value, float):
            return self.choice(WRONG_NUMBERS)
        return self.choice((None, "nonsense", 3, b"cosine"))

    def _wrong_tensor(self, x: torch.Tensor, arguments: dict[str, Any]) -> Any:
        if x.layout != torch.strided:
            dense = torch.eye(len(x), dtype=x.dtype)  # torch itself may crash on columns that are out of range
            return self.choice((dense, dense.to_sparse_coo(), None))
        if x.dtype == torch.int64 and self.chance(0.4):
            at = self.size(0, x.numel() - 1)
            return x.flatten().index_fill(0, torch.tensor([at]), self.choice(EXTREME_INDICES)).view(x.shape)
        others = [x, *(y for y in arguments.values() if isinstance(y, torch.Tensor))]
        change: Callable[[torch.Tensor], Any] = self.choice(
            (
                lambda x: None,
                lambda x: x.detach().tolist(),
                lambda x: x.detach().to(torch.float32).numpy(force=True),
                lambda x: x.detach().to(self.choice((*DTYPES, torch.int64, torch.int32, torch.bool, torch.complex64))),
                lambda x: x.detach().clamp(-1, 1).to(torch.float8_e4m3fn),
                lambda x: x[:0],
                lambda x: x[..., :0],
                lambda x: x[:-1],
                lambda x: x[..., 1:],
                lambda x: torch.cat([x, x]),
                lambda x: x.unsqueeze(0),
                lambda x: x[0],
                lambda x: x.detach().to("meta"),
                lambda x: x.detach().to_sparse(),
                lambda x: torch.nn.Parameter(x.detach().double()),
                lambda x: x.detach().double().requires_grad_(),
                lambda x: self.choice(others),
                lambda x: x.expand(2, *x.shape),
            )
        )
        return change(x)
