"""Triton 3.6's interpreter without three quarters of its bookkeeping, none of which changes what a kernel computes.

At every call of a device function, ``tl.sum`` included, it looks through all of ``triton.language`` for what to patch;
once a launch is enough. For every block it describes the shape and the type, and lists all dtypes: these are remembered
here. Every tuple has its type worked out, which few are asked for. Every sum and product of int32 is computed in int64
too, for an assertion that only a debugging option would make.
"""

import builtins
import functools
import math
import os


def hasten() -> None:
    import triton
    import triton.language as tl
    from triton.language import core
    from triton.language.semantic import TritonSemantic
    from triton.runtime import interpreter

    if not triton.__version__.startswith("3.6."):
        return
    both_languages = eval("lambda: None", {"tl": tl, "core": core})
    patch, list_dtypes, dtypes = interpreter._patch_lang, interpreter._get_np_dtype, {}
    describe_block, blocks = core.block_type.__init__, {}
    make_typed_tuple = core.tuple.__init__

    def dtype_of(kind):
        scalar = kind.scalar
        if scalar.name not in dtypes:
            dtypes[scalar.name] = list_dtypes(scalar)
        return dtypes[scalar.name]

    def make_block(self, element, shape):
        key = element.name, builtins.tuple([core._unwrap_if_constexpr(size) for size in shape])
        if key not in blocks:
            describe_block(self, element, shape)
            sizes = self.shape.values
            self.described = core.tuple([core.constexpr(size) for size in sizes]), core.constexpr(math.prod(sizes))
            blocks[key] = self.__dict__
        self.__dict__ = blocks[key]

    no_block = core.tuple([]), core.constexpr(1)

    def make_tensor(self, handle, kind):
        self.handle, self.type, self.dtype = handle, kind, kind.scalar
        self.shape, self.numel = kind.described if kind.is_block() else no_block

    def make_tuple(self, values, kind=None):
        self.values = list(values)
        if kind is not None:
            make_typed_tuple(self, values, kind)

    def are_equal(self, other):
        if self is other:
            return core.constexpr(True)
        return core.constexpr(self.values == [core._unwrap_if_constexpr(value) for value in other])

    type_of_tuple = functools.cached_property(lambda self: core._type_for_tuple_values(self.values))
    type_of_tuple.__set_name__(core.tuple, "type")
    core.tuple.__init__, core.tuple.__eq__, core.tuple.type = make_tuple, are_equal, type_of_tuple
    core.block_type.__init__, core.tensor.__init__ = make_block, make_tensor
    TritonSemantic.binary_op_sanitize_overflow_impl = lambda *_: None
    interpreter._patch_lang = lambda function: patch(both_languages)
    interpreter.InterpretedFunction.__call__ = lambda self, *values, **named: self.rewrite()(*values, **named)
    interpreter._get_np_dtype = dtype_of


if os.environ.get("TRITON_INTERPRET") == "1":
    hasten()
