"""Arrays or tensors in, tensors inside."""

import numpy as np
import torch

Array = np.ndarray | torch.Tensor


def as_tensor(name: str, x: Array) -> torch.Tensor:
    """``x`` as a tensor without a gradient, sharing its memory where that can be.

    Raises:
        TypeError: ``x`` is neither an array nor a tensor.
    """
    if isinstance(x, torch.Tensor):
        return x.detach()
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array or a tensor, got {type(x).__name__}")
    return torch.from_numpy(np.require(x, x.dtype.newbyteorder("="), ["C", "W"]))  # torch warns of read-only arrays


def like(result: torch.Tensor, given: Array) -> Array:
    """``result`` as an array where ``given`` is one, as a tensor where it is that."""
    return result if isinstance(given, torch.Tensor) else result.cpu().numpy()
