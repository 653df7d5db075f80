"""The cluster memory of Cluster Contrast and of the code that came after it."""

import torch
import torch.nn.functional as F
from torch import nn

from salcr import ops
from salcr.ops._checks import check_share, check_tensor
from salcr.ops._precision import without_autocast

GRADIENTS = ("published", "seen")


class ClusterMemory(nn.Module):
    """A contrastive loss against ``num_samples`` rows, which follow the features when ``backward`` runs.

    Rows are updated by one kernel instead of a Python loop over samples; all else is as published.

    Args:
        num_features: width D of the features.
        num_samples: clusters K.
        temp: temperature, divides the cosine.
        momentum: share of the old row that an update keeps.
        use_hard: per cluster only the sample of the smallest cosine updates its row (the first, if several have it).
        gradient: through which rows the loss is differentiated. ``"published"``: through the rows at the time of
            ``backward``: with two losses on one memory the one called first sees rows that the other has moved.
            ``"seen"``: through those that ``forward`` saw, which takes a copy of the memory a call.

    Attributes:
        features: ``[K, D]``, the buffer of rows: assign unit rows before training, as published code does.
    """

    features: torch.Tensor

    def __init__(
        self,
        num_features: int,
        num_samples: int,
        temp: float = 0.05,
        momentum: float = 0.2,
        use_hard: bool = False,
        *,
        gradient: str = "published",
    ) -> None:
        super().__init__()
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
        self.num_features, self.num_samples = num_features, num_samples
        self.temp, self.momentum, self.use_hard, self.gradient = temp, momentum, use_hard, gradient
        self.register_buffer("features", torch.zeros(num_samples, num_features))

    def forward(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        momentum: float | None = None,
        *,
        weights: torch.Tensor | None = None,
        soft_targets: torch.Tensor | None = None,
        return_out: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Mean cross entropy of the cosines over the temperature.

        Args:
            inputs: ``[B, D]``, float, on the device of ``features``; normalised here.
            targets: ``[B]``, int64: each sample's cluster, in the loss and in the update.
            momentum: of this call's update, in place of the memory's.
            weights: ``[B]``: the loss is the mean of each sample's loss times its weight.
            soft_targets: ``[B, K]``: probabilities in place of ``targets`` in the loss; the update keeps ``targets``.
            return_out: return ``(loss, logits [B, K])``, the logits divided by the temperature.

        Raises:
            TypeError, ValueError: a wrong shape or dtype, no input, a momentum outside ``[0, 1]``, or on the CPU a
                target outside ``[0, K)``.
        """
        momentum = self.momentum if momentum is None else momentum
        _check(inputs, targets, self.features, weights, soft_targets)
        check_share("momentum", momentum)
        rows = F.normalize(inputs, dim=1).to(self.features.dtype)
        moved = _UpdateInBackward.apply(rows, targets, self.features, momentum, self.use_hard)
        seen = self.features if self.gradient == "published" else self.features.clone()
        logits = _Cosines.apply(moved, seen) / self.temp
        labels = targets if soft_targets is None else soft_targets
        if weights is None:
            loss = F.cross_entropy(logits, labels)
        else:
            loss = (weights * F.cross_entropy(logits, labels, reduction="none")).mean()
        return (loss, logits) if return_out else loss


class _Cosines(torch.autograd.Function):
    """``rows @ memory.T`` in their dtype; the gradient reads the memory as it is by then.

    So the memory is an attribute of the context: of a saved tensor autograd would refuse the change.
    """

    @staticmethod
    @without_autocast
    def forward(ctx, rows, memory):
        ctx.memory = memory
        return rows @ memory.T

    @staticmethod
    @torch.autograd.function.once_differentiable
    @without_autocast
    def backward(ctx, gradient):
        return gradient @ ctx.memory, None


class _UpdateInBackward(torch.autograd.Function):
    """The rows themselves; when their gradient arrives the memory follows them."""

    @staticmethod
    def forward(ctx, rows, targets, memory, momentum, use_hard):
        ctx.save_for_backward(rows, targets)
        ctx.memory, ctx.momentum, ctx.use_hard = memory, momentum, use_hard
        return rows.view_as(rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        rows, targets = ctx.saved_tensors
        select = "hardest" if ctx.use_hard else "all"
        ops.update_cluster_memory_(ctx.memory, rows, targets, momentum=ctx.momentum, select=select)
        return gradient, None, None, None, None


def _check(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    memory: torch.Tensor,
    weights: torch.Tensor | None,
    soft_targets: torch.Tensor | None,
) -> None:
    check_tensor("inputs", inputs, ndim=2)
    if inputs.shape[1] != memory.shape[1]:
        raise ValueError(f"inputs must be [B, {memory.shape[1]}], got shape {tuple(inputs.shape)}")
    check_tensor("targets", targets, ndim=1, floating=False)
    wanted = [("targets", targets, (len(inputs),))]
    if weights is not None:
        check_tensor("weights", weights, ndim=1)
        wanted.append(("weights", weights, (len(inputs),)))
    if soft_targets is not None:
        check_tensor("soft_targets", soft_targets, ndim=2)
        wanted.append(("soft_targets", soft_targets, (len(inputs), len(memory))))
    for name, x, shape in wanted:
        if x.shape != shape:
            raise ValueError(f"{name} must be {list(shape)}, got shape {tuple(x.shape)}")
    if targets.device.type == "cpu" and not 0 <= targets.min() <= targets.max() < len(memory):
        raise ValueError(f"targets must be in [0, {len(memory)}), got {int(targets.min())} to {int(targets.max())}")
