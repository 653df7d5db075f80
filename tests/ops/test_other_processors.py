"""The extension's code for processors with less than this one: AVX2, and any x86-64."""

import ctypes
import re
import shutil
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.kernels.lanes import ROOT
from tests.sanitized import extension

LIBRARY = Path(find_spec("salcr._C").origin)  # not imported: another takes its place in main()
# In libgcc's __cpu_features2, which is what __builtin_cpu_supports and the choice among clones read.
LEVELS = {"default": (0, 0), "arch_x86_64_v3": (8, 2)}  # clone → byte offset and bits of the processors that take it
CLONE = re.compile(r"\.(default|arch_x86_64_v\d)\b")


def symbols(library=LIBRARY):
    lines = subprocess.run(["nm", library], check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: int(address, 16) for address, _, name in (line.split() for line in lines if line[0] != " ")}


if not shutil.which("nm") or "__cpu_indicator_init" not in symbols():
    pytest.skip("the extension has one code for all processors", allow_module_level=True)


def on_lesser_processor(clone, folder):
    """The extension, with a look at the processor that sees no more than ``clone`` asks for."""
    (folder / "salcr").mkdir()
    library = folder / "salcr" / LIBRARY.name
    found, code = symbols(), bytearray(LIBRARY.read_bytes())
    at, (offset, bits) = found["__cpu_indicator_init"], LEVELS[clone]
    ahead = found["__cpu_features2"] + offset - at - 10
    store, end = b"\xc7\x05" + struct.pack("<iI", ahead, bits), b"\x31\xc0\xc3"  # mov [rip + ahead], bits; return 0
    look = store + end
    code[at : at + len(look)] = look  # as far into the file as into memory
    library.write_bytes(code)


def main(folder, clone, calls):
    """In a process of its own: ``calls`` of the fuzzer, with that extension."""
    module = extension(folder)
    found = symbols(module.__file__)
    mapped = Path("/proc/self/maps").read_text().splitlines()
    start = min(int(line.partition("-")[0], 16) for line in mapped if module.__file__ in line)
    for name, address in found.items():
        if name.endswith(".resolver"):
            chosen = ctypes.CFUNCTYPE(ctypes.c_void_p)(start + address)() - start
            assert chosen == found[f"{name.removesuffix('resolver')}{clone}"], name
    assert not module.screens_in_bytes(64)
    from tests.fuzz.calls import finding, prepare

    prepare()
    for number in range(int(calls)):
        if problem := finding(0, number):
            sys.exit(f"call {number}: {problem}")


@pytest.mark.parametrize("clone", LEVELS)
def test_operators_are_right_on_lesser_processors(clone, tmp_path):
    on_lesser_processor(clone, tmp_path)
    command = [sys.executable, "-m", "tests.ops.test_other_processors", tmp_path, clone, "300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("objdump"), reason="no objdump")
def test_instructions_of_avx_stand_only_where_the_processor_was_asked_for_them():
    sources = "".join(path.read_text() for path in (ROOT / "csrc").glob("*.[ch]pp"))
    marked = set(re.findall(r"^SALCR_(?:VNNI|FOR_AVX512) [\w:&*<> ]*?(\w+)\(", sources, re.MULTILINE))
    assert {"run_by_eight", "multiply_strip", "reaching"} <= marked
    command = ["objdump", "-d", "--no-show-raw-insn", LIBRARY]
    code = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = set()
    for function in code.split("\n\n"):
        name = function.partition("<")[2].partition(">")[0]
        clone = CLONE.search(name)
        asked = clone[1] != "default" if clone else any(f"{len(by)}{by}" in name for by in marked)
        if not asked and "\tv" in function:
            found.add(name)
    assert not found


if __name__ == "__main__":
    main(*sys.argv[1:])
