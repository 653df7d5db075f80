"""Two ways to test Triton kernels without a GPU: the interpreter, and compilation ahead of time (DESIGN section 5)."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = (80, 90, 100)
SHARED_LIMIT = {80: 163_840, 90: 232_448, 100: 232_448}  # bytes of shared memory a block can have


class Resources(NamedTuple):
    """What a block of a compiled kernel takes; spills are bytes stored and loaded."""

    registers: int
    spills: int
    shared: int


def interpret(module: Path) -> None:
    """Run the tests of ``module`` with pytest in a process of its own, in which Triton interprets its kernels.

    Raises:
        AssertionError: with pytest's output, unless every test passed.
    """
    own_warning = "ignore:Conversion of an array with ndim:DeprecationWarning"  # the interpreter's, under NumPy 2
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-W", own_warning, str(module)],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def compile_for(
    kernel: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any],
    arch: int,
    *,
    aligned: Sequence[str] = (),
    **options: int,
) -> Resources:
    """Compile ``kernel`` for compute capability ``arch`` and assemble it with the ``ptxas`` of Triton's wheel.

    Args:
        kernel: a function under ``triton.jit``.
        signature: type of each argument that is not a constexpr, such as ``"*fp32"`` or ``"i32"``.
        constexprs: value of each constexpr.
        arch: 80, 90 or 100.
        aligned: integers that a launch would find divisible by 16; all pointers are.
        options: ``num_warps``, ``num_stages``.
    """
    import triton
    from triton.backends import nvidia
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    types = {name: "constexpr" if name in constexprs else signature[name] for name in names}
    divisible = [["tt.divisibility", 16]]
    attributes = {(i,): divisible for i, name in enumerate(names) if types[name].startswith("*") or name in aligned}
    source = ASTSource(fn=kernel, signature=types, constexprs=dict(constexprs), attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    tools = Path(nvidia.__file__).parent / "bin"
    ptxas = tools / ("ptxas-blackwell" if arch >= 100 and (tools / "ptxas-blackwell").exists() else "ptxas")
    with tempfile.TemporaryDirectory() as folder:
        source_file = Path(folder) / "kernel.ptx"
        source_file.write_text(compiled.asm["ptx"])
        target = re.search(r"^\.target (\w+)", compiled.asm["ptx"], re.M)[1]
        command = [ptxas, "-v", f"--gpu-name={target}", source_file, "-o", Path(folder) / "kernel.cubin"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", report))
    return Resources(int(re.search(r"Used (\d+) registers", report)[1]), spills, compiled.metadata.shared)
