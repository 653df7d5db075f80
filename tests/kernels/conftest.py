"""Triton 3.6's interpreter without half of its bookkeeping, none of which changes what a kernel computes.

At every call of a device function, ``tl.sum`` included, it looks through all of ``triton.language`` for what to patch;
once a launch is enough. For every block it describes the shape and lists all dtypes; both are remembered here.
"""

import functools
import math
import os


def hasten() -> None:
    import triton
    import triton.language as tl
    from triton.language import core
    from triton.runtime import interpreter

    if not triton.__version__.startswith("3.6."):
        return
    both_languages = eval("lambda: None", {"tl": tl, "core": core})
    patch, list_dtypes, dtypes = interpreter._patch_lang, interpreter._get_np_dtype, {}

    def dtype_of(kind):
        scalar = kind.scalar
        if scalar.name not in dtypes:
            dtypes[scalar.name] = list_dtypes(scalar)
        return dtypes[scalar.name]

    @functools.cache
    def describe(shape):
        return core.tuple([core.constexpr(size) for size in shape]), core.constexpr(math.prod(shape))

    def make_tensor(self, handle, kind):
        self.handle, self.type, self.dtype = handle, kind, kind.scalar
        self.shape, self.numel = describe(kind.shape if kind.is_block() else ())

    interpreter._patch_lang = lambda function: patch(both_languages)
    interpreter.InterpretedFunction.__call__ = lambda self, *values, **named: self.rewrite()(*values, **named)
    interpreter._get_np_dtype = dtype_of
    core.tensor.__init__ = make_tensor


if os.environ.get("TRITON_INTERPRET") == "1":
    hasten()
