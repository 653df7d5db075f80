"""Triton 3.6's interpreter without most of its bookkeeping, none of which changes what a kernel computes.

At every launch, and at every call of a device function, ``tl.sum`` included, it looks through all of
``triton.language`` for what to patch, and at the end of a launch takes it back; once a process is enough. For every
block it describes the shape and the type, and lists all dtypes: these are remembered here, so that equal ones are the
same object, which is looked at before anything is compared. Operands of one type and one shape, which most are, need
neither promotion nor broadcasting; a number beside a block becomes a block once for equal numbers. Every tuple has its
type worked out, which few are asked for. Every sum and product of int32 is computed in int64 too, for an assertion that
only a debugging option would make. Every result is looked at for elements wider than its type, which would be a fault
of the interpreter.
"""

import builtins
import functools
import math
import os
from types import SimpleNamespace


def hasten() -> None:
    import triton
    import triton.language as tl
    from triton.language import core
    from triton.language.semantic import TritonSemantic
    from triton.runtime import interpreter

    if triton.__version__.startswith("3.6."):
        # The interpreter patches the modules that it finds among a function's globals: here are both of them.
        patch_once(interpreter, core, eval("lambda: None", {"tl": tl, "core": core}))
        remember_types(interpreter, core)
        take_equal_operands(core, TritonSemantic)


def patch_once(interpreter, core, both_languages) -> None:
    patch = functools.cache(interpreter._patch_lang)
    asks_for_semantic = core.builtin(hasten).__code__  # of the wrapper that every builtin has, which is left out

    def patch_attribute(holder, name, member, builder, scope):
        semantic = interpreter.TritonSemantic(builder)
        function = member.__wrapped__ if member.__code__ is asks_for_semantic else member

        def interpreted(*values, **named):
            named["_semantic"] = semantic
            return function(*values, **named)

        scope.set_attr(holder, name, interpreted)

    interpreter._patch_attr = patch_attribute
    interpreter._patch_lang = lambda _: patch(both_languages) and SimpleNamespace(restore=lambda: None)
    interpreter.InterpretedFunction.__call__ = lambda self, *values, **named: self.rewrite()(*values, **named)


def remember_types(interpreter, core) -> None:
    list_dtypes, dtypes = interpreter._get_np_dtype, {}
    describe_block, blocks, shapes = core.block_type.__init__, {}, {}
    make_typed_tuple, are_equal_dtypes = core.tuple.__init__, core.dtype.__eq__

    def dtype_of(kind):
        name = kind.scalar.name
        if name not in dtypes:
            dtypes[name] = list_dtypes(kind.scalar)
        return dtypes[name]

    def make_block(self, element, shape):
        sizes = builtins.tuple([core._unwrap_if_constexpr(size) for size in shape])
        if (element.name, sizes) not in blocks:
            describe_block(self, element, shape)
            self.kinds = {}
            described = core.tuple([core.constexpr(size) for size in sizes]), core.constexpr(math.prod(sizes))
            self.described = shapes.setdefault(sizes, described)
            blocks[element.name, sizes] = self.__dict__
        self.__dict__ = blocks[element.name, sizes]

    def with_element(self, element):
        if element.name not in self.kinds:
            self.kinds[element.name] = core.block_type(element, self.shape)
        return self.kinds[element.name]

    no_block = core.tuple([]), core.constexpr(1)

    def make_tensor(self, handle, kind):
        self.handle, self.type, self.dtype = handle, kind, kind.scalar
        self.shape, self.numel = kind.described if kind.is_block() else no_block

    def make_handle(self, data, kind, attr=None):
        self.data, self.dtype, self.attr = data, kind, {} if attr is None else attr

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
    unwrap, plain = core._unwrap_if_constexpr, {core.tensor, int, bool, float, type(None), str}
    core._unwrap_if_constexpr = lambda value: value if type(value) in plain else unwrap(value)
    core.dtype.__eq__ = lambda self, other: self is other or are_equal_dtypes(self, other)
    core.block_type.__init__, core.block_type.with_element_ty = make_block, with_element
    core.block_type.to_ir = lambda self, builder: self
    core.tensor.__init__ = make_tensor
    interpreter._get_np_dtype = dtype_of
    interpreter.TensorHandle.__init__ = make_handle


def take_equal_operands(core, semantic) -> None:
    convert, cast, broadcast = semantic.to_tensor, semantic.cast, semantic.broadcast_impl_value
    promote, tensor, constexpr, constants = semantic.binary_op_type_checking_impl, core.tensor, core.constexpr, {}

    def promote_different(self, x, y, pointer_x=False, pointer_y=False, arithmetic=True, division=False):
        if type(x) is not tensor:
            if type(y) is tensor:
                return promote_constant(self, y, x, True, pointer_x, pointer_y, arithmetic, division)
        elif type(y) is not tensor:
            return promote_constant(self, x, y, False, pointer_x, pointer_y, arithmetic, division)
        elif y.dtype.is_int() if x.dtype.is_ptr() else x.dtype is y.dtype and not division:
            return self.broadcast_impl_value(x, y)
        return promote(self, x, y, pointer_x, pointer_y, arithmetic, division)

    def promote_constant(self, x, value, is_first, *how):
        """The same constant for equal numbers beside equal types and shapes; 0.0 and -0.0 are not equal here."""
        value = value.value if type(value) is constexpr else value
        key = value or repr(value), type(value), x.dtype.name, id(x.shape), is_first, how
        if key in constants:
            constant = constants[key]
        else:
            pair = promote(self, value, x, *how) if is_first else promote(self, x, value, *how)
            if pair[is_first] is not x:
                return pair
            constant = constants[key] = pair[not is_first]
            constant.handle.data.flags.writeable = False
        return (constant, x) if is_first else (x, constant)

    semantic.binary_op_type_checking_impl = promote_different
    semantic.broadcast_impl_value = lambda self, x, y: (x, y) if x.shape is y.shape else broadcast(self, x, y)
    semantic.cast = lambda self, x, kind, *mode: x if x.dtype is kind.scalar else cast(self, x, kind, *mode)
    semantic.to_tensor = lambda self, x, *check: x if type(x) is tensor else convert(self, x, *check)
    semantic.binary_op_sanitize_overflow_impl = lambda *_: None


if os.environ.get("TRITON_INTERPRET") == "1":
    hasten()
