"""The memory of self-paced contrastive learning: clusters and unclustered instances, of one set of rows."""

from typing import Any

import torch
from torch import nn

from salcr import ops
from salcr.defaults import TEMPERATURE
from salcr.nn.memory import as_rows, check_settings, settings_of, unit_rows
from salcr.ops._checks import check_indices, check_same, check_tensor
from salcr.ops._precision import without_autocast

SPCL_MOMENTUM = 0.2


class HybridMemory(nn.Module):
    """A bank of unit rows, one an image, contrasted by class: a cluster of an epoch, or an image that is in none.

    Equivalent eager expression of the loss, over the rows as they are::

        similarity = normalize(features) @ rows.T / temperature
        of_class = stack([similarity[:, classes == c].mean(1) for c in range(num_classes)], dim=1)
        loss = cross_entropy(of_class, classes[indices])

    It is computed as the contrast with the classes' mean rows, which are kept beside the rows and follow them: no
    product with all N rows is made.

    Rows of source classes, which SpCL keeps in the same memory, are rows that are in no cluster: put their centroids
    before the images' rows with the label -1, and let the index of a source image be its class.

    Args:
        rows: ``[N, D]``, float: starting rows, normalised here.
        labels: ``[N]``, int64, as :meth:`assign_` takes them; by default no image is in a cluster.
        momentum: share of the old row that an update keeps.
        temperature: divides the cosine in :meth:`contrast`.
        precision: of the products in :meth:`contrast`, see :func:`salcr.ops.cluster_contrast`.

    Attributes:
        classes: ``[N]``, int64: the class of every row.
        centroids: ``[num_classes, D]``: the mean of each class's rows, not normalised.

    Raises:
        TypeError, ValueError: rows or labels of a wrong shape, dtype or device, a label outside ``[-1, N)``, a
            setting that no operator takes.

    Source: Self-paced Contrastive Learning with Hybrid Memory (Ge et al., 2020). Published code adds 1e-6 to the sum
    and to the probability; nothing is added here.
    """

    rows: torch.Tensor
    labels: torch.Tensor
    classes: torch.Tensor
    sizes: torch.Tensor
    centroids: torch.Tensor

    def __init__(
        self,
        rows: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        momentum: float = SPCL_MOMENTUM,
        temperature: float = TEMPERATURE,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        check_tensor("rows", rows, ndim=2)
        check_settings(temperature, precision, momentum)
        self.register_buffer("rows", unit_rows(rows.detach()))
        self.register_buffer("labels", torch.full(rows.shape[:1], -1, device=rows.device))
        for name in ("classes", "sizes", "centroids"):
            self.register_buffer(name, None, persistent=False)
        self.momentum, self.temperature, self.precision = momentum, temperature, precision
        self.assign_(self.labels if labels is None else labels)
        self.register_load_state_dict_post_hook(_assign_again)

    @torch.inference_mode(False)  # as rows are made
    def assign_(self, labels: torch.Tensor) -> None:
        """Take an epoch's clusters over: ``labels [N]``, int64, with -1 at images in none. Numbers may be left out."""
        check_tensor("labels", labels, ndim=1, floating=False)
        check_same("labels", labels, "rows", self.rows, dtype=False)
        count = len(self.rows)
        if len(labels) != count:
            raise ValueError(f"labels has {len(labels)} entries for {count} rows")
        check_indices("labels", labels, -1, count)
        alone = torch.arange(count, 2 * count, device=labels.device)
        self.labels = labels.clone()
        self.classes = torch.where(labels < 0, alone, labels).unique(return_inverse=True)[1]
        self.sizes = self.classes.bincount()
        self.centroids = ops.cluster_centroids(self.rows, self.classes, len(self.sizes))

    def contrast(self, features: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Mean contrastive loss of ``features [B, D]``, the images ``indices [B]``; those with -1 are ignored.

        The gradient needs the classes as they are now: autograd raises if :meth:`update_` comes before ``backward``,
        except where a precision of bfloat16 has made a copy of them.

        Raises:
            TypeError, ValueError: a wrong shape, dtype or device; on the CPU also an index outside ``[-1, N)``.
        """
        places = self._places(indices)
        outside = torch.where(indices == -1, -1, len(self.centroids))  # no class: the operator refuses it
        classes = torch.where(indices == places, self.classes[places], outside)
        options = dict(temperature=self.temperature, precision=self.precision)
        return ops.cluster_contrast(features, self.centroids, classes, **options)

    @without_autocast
    def update_(self, features: torch.Tensor, indices: torch.Tensor, order: torch.Tensor | None = None) -> None:
        """Move each image's row towards its feature, one sample after the other; call it after ``backward``.

        The rows are updated as :func:`salcr.ops.update_cluster_memory_` says, with ``indices`` for targets, and the
        classes' means follow by what their rows have moved.

        Raises:
            TypeError, ValueError: as :meth:`contrast` and that operator.
        """
        places, features = self._places(indices), as_rows(features, self.rows)
        with torch.no_grad():
            classes, before = self.classes[places], self.rows[places]
            ops.update_cluster_memory_(self.rows, features, indices, momentum=self.momentum, order=order)
            moved = (self.rows[places] - before) / self.sizes[classes, None]
            again = (indices == indices[:, None]).tril(-1).any(1)  # an image's whole move counts at its first sample
            same = classes == classes[:, None]
            counted, finite = same & ~again & (indices >= 0), moved.isfinite().all(1)
            total = counted.to(moved.dtype) @ moved.masked_fill(~finite[:, None], 0)  # else NaN reaches all
            total.masked_fill_((counted & ~finite).any(1, keepdim=True), torch.nan)
            first = same.int().argmax(1)  # of the class: all its samples write these bits, whichever is the last
            self.centroids.index_copy_(0, classes, self.centroids[classes] + total[first])

    def extra_repr(self) -> str:
        return settings_of(self, "momentum", "temperature", "precision")

    def _places(self, indices: torch.Tensor) -> torch.Tensor:
        """The row of each image; row 0 for -1."""
        check_tensor("indices", indices, ndim=1, floating=False)
        check_same("indices", indices, "rows", self.rows, dtype=False)
        count = len(self.rows)
        if indices.device.type == "cpu" and not torch.compiler.is_compiling():
            check_indices("indices", indices, -1, count)
        return indices.clamp(0, count - 1)


def _assign_again(memory: HybridMemory, _: Any) -> None:
    memory.assign_(memory.labels)
