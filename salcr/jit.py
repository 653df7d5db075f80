"""numba's compiler, keeping what it compiles where that can be kept. Imports numba: import it late."""

from collections.abc import Callable
from typing import Any

import numba


def njit(**options: Any) -> Callable[[Callable], Callable]:
    """``numba.njit(cache=True, **options)``; without the cache where numba finds no folder to write it to.

    It looks beside the source, in the user's cache folder and in ``NUMBA_CACHE_DIR``. Without one of them every process
    compiles anew, which takes a few seconds.
    """

    def compile_lazily(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            return numba.njit(**options)(function)

    return compile_lazily
