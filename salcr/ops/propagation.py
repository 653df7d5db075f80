"""Cross-modality feature propagation."""

import torch

from salcr import reference
from salcr.defaults import NEIGHBORS
from salcr.ops._checks import check_all_lengths, check_integer, check_same, check_tensor, wide_dtype
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._register import register
from salcr.ops.backends.cpp import propagation as _cpp
from salcr.ops.backends.eager import propagation as _eager
from salcr.ops.backends.triton import propagation as _triton


def propagate_features(
    visible: torch.Tensor, infrared: torch.Tensor, *, k: int = NEIGHBORS, impl: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace every feature by the mean of its neighbours in its own and in the other modality.

    Equivalent eager expression::

        def graph(x, y):
            s = x @ y.T
            w = where(s >= s.topk(min(k, len(y))).values[:, -1:], s, 0).clamp_min(0)
            return nan_to_num(w / w.sum(1, keepdim=True))

        v, r = normalize(visible, dim=-1), normalize(infrared, dim=-1)
        visible_ = normalize(graph(v, v) @ v + graph(v, r) @ r, dim=-1)
        infrared_ = normalize(graph(r, r) @ r + graph(r, v) @ v, dim=-1)

    A row of a graph keeps its k largest inner products and all that equal the k-th; the image itself is one of them in
    its own modality. A row with no positive one contributes nothing; where both rows of an image contribute nothing
    the image keeps its own feature. No graph is ever held as a whole. No gradient flows back.

    Args:
        visible: ``[N_v, D]``, float; need not be normalised.
        infrared: ``[N_r, D]`` of the same dtype; need not be normalised. float16 and bfloat16 are computed in float32.
        k: neighbours in each graph, at least 1; where a side has no more than k images all are kept. 30 for
            SYSU-MM01, 8 for RegDB.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``([N_v, D], [N_r, D])``, unit rows of the dtype of ``visible``. A feature shorter than 1e-12 may
        come out shorter than 1, and zero stays zero.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device or k; a feature with NaN or Inf, or too long to square (the
            message names the row).

    Example:
        >>> visible, infrared = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8]])
        >>> visible_, infrared_ = ops.propagate_features(visible, infrared, k=1)
        >>> [round(x, 3) for x in visible_[0].tolist()]  # normalize((1, 0) + (0.6, 0.8))
        [0.894, 0.447]

    Source: docs/method.md, "Feature propagation".
    """
    check_tensor("visible", visible, ndim=2)
    check_tensor("infrared", infrared, ndim=2)
    check_same("infrared", infrared, "visible", visible)
    if infrared.shape[1] != visible.shape[1]:
        raise ValueError(f"infrared {tuple(infrared.shape)} and visible {tuple(visible.shape)} differ in width")
    check_integer("k", k)
    return torch.ops.salcr.propagate_features(visible.detach(), infrared.detach(), k, check_impl(impl))


def _propagate(visible, infrared, k, impl):
    check_all_lengths({"visible": visible, "infrared": infrared})
    dtype, wide = visible.dtype, wide_dtype(visible)
    visible, infrared = visible.to(wide), infrared.to(wide)
    visible, infrared = pick("propagate_features", impl, visible)(visible, infrared, k=k)
    return visible.to(dtype), infrared.to(dtype)


def _fake_propagate(visible, infrared, k, impl):
    return visible.new_empty(visible.shape), infrared.new_empty(infrared.shape)


add_backend("propagate_features", "cpp", _cpp.propagate_features)
add_backend("propagate_features", "triton", _triton.propagate_features, dtypes=(torch.float32,))
add_backend("propagate_features", "eager", _eager.propagate_features)
add_backend("propagate_features", "reference", reference.propagate_features)
register(
    "propagate_features",
    "(Tensor visible, Tensor infrared, int k, str impl) -> (Tensor, Tensor)",
    _propagate,
    _fake_propagate,
)
