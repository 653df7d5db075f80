"""salcr: unsupervised visible-infrared person re-identification (SALCR, IJCV 2025) with accelerated operators.

``salcr.ops`` holds the operators, ``salcr.reference`` the same in plain PyTorch, ``salcr.nn`` modules over them.
``salcr.cluster`` goes from features to pseudo labels; ``salcr.use_backend`` chooses what the operators run on.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["cluster", "use_backend"]

if TYPE_CHECKING:
    from salcr.ops import cluster, use_backend
else:

    def __getattr__(name: str) -> Any:
        if name in __all__:  # imported late: ``salcr --help`` need not wait for torch
            from salcr import ops

            return getattr(ops, name)
        raise AttributeError(f"module 'salcr' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
