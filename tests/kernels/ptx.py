"""PTX as Triton and nvcc write it, taken apart for the machine in tests/kernels/machine, which executes it.

What is not known here is an error: an instruction that a newer Triton or another kernel uses is added to both.
"""

import ctypes
import re
from typing import Any

import numpy as np

SHARED_BEGIN = 0x400  # as in machine.hpp
NAME = r"[A-Za-z_]\w*"  # of a block's shared memory, of which a kernel has one array
ARITHMETIC = {"add", "sub", "mul", "min", "max", "div", "rem", "fma", "neg", "abs", "shl", "shr", "bfe", "popc", "prmt"}
ARITHMETIC |= {"selp", "ex2", "sqrt", "rsqrt", "rcp", "copysign", "brev"}
WHOLE = {"vote.sync.ballot.b32": "ballot", "bfind.shiftamt.u32": "leading_zeros"}
NAMED = {"and", "or", "xor", "not"}  # words of C++, where they end in an underscore
NOTHING = ("bar.warp.sync", "fence.proxy.async", "wgmma.fence", "membar.gl")  # warps see what others write
SPECIAL = {"%tid.x": "tid", "%ntid.x": "ntid"} | {
    f"%{n}ctaid.{axis}": f"{n}ctaid_{axis}" for n in ("", "n") for axis in "xyz"
}
FIELDS = ["operation", "type", "source", "flags", "choice", "offset", "offset_from", "predicate", "negated"]
FIELDS += ["first", "count", "target", "join", "line"]  # an Instruction of machine.hpp
KEPT_ORDER = {"acquire", "release", "acq_rel", "sys"}  # of memory between threads: no kernel of ours asks for it


class Program:
    """The instructions, operands and constants of a kernel, and its parameters in order."""

    def __init__(self, ptx: str, library: ctypes.CDLL) -> None:
        self.library, self.ptx = library, ptx
        self.registers: dict[str, int] = {}
        self.constants: dict[int, int] = {}
        self.parameters: list[str] = []
        self.code: list[dict[str, Any]] = []
        self.names: list[str] = []  # of its operations
        self.operands: list[tuple[int, int]] = []
        self.unknown: set[str] = set()  # results that the machine does not give
        labels = {}
        for line, statement in statements(ptx):
            if parameter := re.match(r"\.param .*?(\w+_param_\d+)", statement):
                self.parameters.append(parameter[1])
            elif label := re.fullmatch(r"(\$\w+):", statement):
                labels[label[1]] = len(self.code)
            elif not statement.startswith("."):
                self.read(statement, line)
        if self.unknown & self.registers.keys():
            raise NotImplementedError("shfl: its second result is read")
        for instruction in self.code:
            instruction["target"] = labels.get(instruction["target"], -1)
        join_branches(self.code, self.number("operation", "bra"), self.number("operation", "ret"))

    def number(self, of: str, name: str) -> int:
        number = self.library.number_of(of.encode(), name.encode())
        if number < 0:
            raise NotImplementedError(f"{of} {name}")
        return number

    def operand(self, text: str) -> tuple[int, int]:
        """Whether it is a constant, and which constant or register."""
        if text.startswith("%"):
            return 0, self.registers.setdefault(text, len(self.registers))
        if text == "_":
            return 1, 0
        value = SHARED_BEGIN if re.fullmatch(NAME, text) else number_of(text)
        return 1, self.constants.setdefault(value % 2**64, len(self.constants))

    def address(self, text: str) -> tuple[tuple[int, int], int]:
        base, offset = re.fullmatch(rf"\[\s*(%\w+|{NAME})\s*(?:\+\s*(-?\w+))?\s*\]", text).groups()
        return self.operand(base), int(offset or "0", 0)

    def read(self, statement: str, line: int) -> None:
        predicate, negated = -1, 0
        if statement.startswith("@"):
            condition, statement = statement.split(None, 1)
            predicate, negated = self.operand(condition.lstrip("@!"))[1], int("!" in condition)
        name, _, rest = statement.partition(" ")
        parts, arguments = name.split("."), split(rest)
        types = [part for part in parts if self.library.number_of(b"type", part.encode()) >= 0]
        found = dict.fromkeys(FIELDS, 0) | dict(line=line, predicate=predicate, negated=negated, target=None, join=-1)
        found["flags"] = sum(
            1 << place for p in parts[1:] if (place := self.library.number_of(b"flag", p.encode())) >= 0
        )
        operation, operands, more = self.understand(name, parts, types, arguments)
        self.names.append(operation)
        found |= dict(type=self.number("type", types[-1])) if types else {}
        found |= (
            dict(operation=self.number("operation", operation), first=len(self.operands), count=len(operands)) | more
        )
        self.operands += [self.operand(x) if isinstance(x, str) else x for x in operands]
        self.code.append(found)

    def understand(self, name: str, parts: list[str], types: list[str], arguments: list[str]) -> tuple[str, list, dict]:
        """The machine's operation, its operands, and what else it has to know."""
        base = parts[0]
        if name.startswith(NOTHING):
            return "nothing", [], {}
        if parts[-1].endswith("x2") and base in ("add", "sub", "mul", "fma"):
            kind, flags = self.number("type", parts[-1][:-2]), 1 << self.number("flag", "pair")
            return base, arguments, dict(type=kind, flags=flags)
        if base in ("mul", "mad") and "wide" in parts:
            return f"{base}_wide", arguments, {}
        if base in ARITHMETIC or (base == "mad" and "lo" in parts):
            if {"sat", "hi", "cc", "relu"} & set(parts):
                raise NotImplementedError(name)
            return base, arguments, {}
        if base in NAMED:
            return f"{base}_", arguments, {}
        if base == "setp" and len(arguments) == 3:
            return "setp", arguments, dict(choice=self.number("comparison", parts[1]))
        if base == "cvt":
            if parts[-2].endswith("x2"):
                kind, source = parts[-2][:-2], parts[-1]
                return "cvt_pair", arguments, dict(type=self.number("type", kind), source=self.number("type", source))
            return "cvt", arguments, dict(zip(("type", "source"), (self.number("type", x) for x in types), strict=True))
        if base in ("mov", "cvta"):
            return self.move(*arguments)
        if base in ("ld", "st", "atom", "cp", "ldmatrix", "stmatrix"):
            return self.access(name, parts, arguments)
        if base == "shfl":
            value, _, in_range = arguments[0].partition("|")
            self.unknown.add(in_range)
            return "shfl", [value, *arguments[1:]], dict(choice=self.number("kind", parts[2]))
        if name in WHOLE:
            return WHOLE[name], arguments, {}
        if base == "redux":
            return "redux", arguments, dict(choice=self.number("kind", parts[2]))
        if base in ("wgmma", "mma"):
            return self.product(name, parts, arguments)
        if base == "bra":
            return "bra", [], dict(target=arguments[0])
        if base == "ret" or (name == "bar.sync" and arguments == ["0"]):
            return base, [], {}
        raise NotImplementedError(name)

    def move(self, to: str, value: str) -> tuple[str, list, dict]:
        if value in SPECIAL:
            return "special", [to], dict(choice=self.number("special", SPECIAL[value]))
        if value.startswith("{"):
            return "pack", [to, *listed(value)], {}
        if to.startswith("{"):
            return "unpack", [*listed(to), value], {}
        return "mov", [to, value], {}

    def access(self, name: str, parts: list[str], arguments: list[str]) -> tuple[str, list, dict]:
        if KEPT_ORDER & set(parts) or (parts[0] == "atom" and not {"global", "shared"} & set(parts)):
            raise NotImplementedError(name)
        if name == "cp.async.commit_group":
            return "copy_commit", [], {}
        if name == "cp.async.wait_group":
            return "copy_wait", [], dict(choice=int(arguments[0], 0))
        if name.startswith("cp.async.c"):
            (to, offset), (source, offset_from) = map(self.address, arguments[:2])
            sizes = dict(choice=int(arguments[2], 0), offset=offset, offset_from=offset_from)
            return "copy", [to, source, *arguments[3:]], sizes
        if parts[1] == "param":
            return "param", arguments[:1], dict(choice=self.parameters.index(arguments[1].strip("[]")))
        if parts[0] == "atom":
            address, offset = self.address(arguments[1])
            kind = next(x for x in parts if self.library.number_of(b"kind", x.encode()) >= 0)
            operands = [arguments[0], address, *arguments[2:]]
            operation = "atom_shared" if "shared" in parts else "atom"
            return operation, operands, dict(offset=offset, choice=self.number("kind", kind))
        operation = {"ld": "load", "st": "store"}.get(parts[0], parts[0])
        if "shared" in parts and operation in ("load", "store"):
            operation += "_shared"
        elif "shared" not in parts and "global" not in parts:
            raise NotImplementedError(name)
        loads = parts[0].startswith("ld")
        values, place = arguments if loads else reversed(arguments)
        address, offset = self.address(place)
        return operation, [*listed(values), address] if loads else [address, *listed(values)], dict(offset=offset)

    def product(self, name: str, parts: list[str], arguments: list[str]) -> tuple[str, list, dict]:
        if parts[1] in ("commit_group", "wait_group"):
            return f"wgmma_{parts[1].split('_')[0]}", [], dict(choice=int(arguments[0], 0) if arguments else 0)
        if parts[0] == "mma":
            results, a, b, before = map(listed, arguments)
            if not name.startswith("mma.sync.aligned.m16n8") or "row.col.f32" not in name:
                raise NotImplementedError(name)
            return "mma", results + a + b + before, dict(source=self.number("type", parts[-2]), choice=len(a))
        results, a = listed(arguments[0]), listed(arguments[1])
        signs, transposed = arguments[4:6], [int(x) for x in arguments[6:]]
        if signs != ["1", "1"] or parts[-3:] != ["f32", parts[-1], parts[-1]]:
            raise NotImplementedError(name)
        of_a, of_b = transposed if len(transposed) == 2 else (0, *transposed) if transposed else (0, 0)
        chosen = dict(registers=len(a) == 4, trans=of_a, trans_b=of_b)
        flags = sum(1 << self.number("flag", flag) for flag, is_set in chosen.items() if is_set)
        more = dict(source=self.number("type", parts[-1]), choice=2 * len(results), flags=flags)
        return "wgmma", [*results, *a, *arguments[2:4]], more

    def source_lines(self) -> list[str]:
        """Of each instruction, such as ``knn.py:112``."""
        files, places, now = {}, {}, ""
        for number, line in enumerate(self.ptx.splitlines(), 1):
            if file := re.match(r'\s*\.file\s+(\d+) "(.*)"', line):
                files[file[1]] = file[2]
            if place := re.match(r"\s*\.loc\s+(\d+) (\d+)", line):
                now = place.groups()
            places[number] = now
        where = [places[x["line"]] for x in self.code]
        return [f"{files[place[0]].split('/')[-1]}:{place[1]}" if place else "" for place in where]

    def assemble(self) -> int:
        """The machine's own copy."""
        code = np.array([[x[field] for field in FIELDS] for x in self.code], np.int32)
        operands, constants = np.array(self.operands, np.int32), np.array([*self.constants, 0], np.uint64)
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (code, operands, constants)]
        sizes = len(code), len(operands), len(constants)
        arguments = [x for pair in zip(pointers, sizes, strict=True) for x in pair]
        return self.library.assemble(*arguments, len(self.registers))


def statements(ptx: str) -> list[tuple[int, str]]:
    """Statements, labels and directives of a kernel, with the lines where they begin."""
    found, begun, first = [], "", 0
    for number, line in enumerate(ptx.splitlines(), 1):
        line = re.sub(r"\s+", " ", line.split("//")[0]).strip(" ,")
        if line.startswith(".section"):
            break
        if scope := re.fullmatch(r"{ \.reg \.b32 (\w+); (mov\.b64 .*) }", line):  # of a half that nobody reads
            line = re.sub(rf"\b{scope[1]}\b", "_", scope[2])
        if not begun and (line in ("", "{", "}", ")") or line.startswith((".", "$"))):
            found += [(number, line)] if line.startswith((".param", "$")) else []
            continue
        first, begun = (first, f"{begun} {line}") if begun else (number, line)
        while ";" in begun:
            statement, begun = (x.strip() for x in begun.split(";", 1))
            found.append((first, statement))
    return found


def split(text: str) -> list[str]:
    """At the commas outside of brackets."""
    return [x.strip() for x in re.split(r",(?![^\[{]*[\]}])", text) if x.strip()]


def listed(text: str) -> list[str]:
    return [x.strip() for x in text.strip("{} ").split(",")]


def number_of(text: str) -> int:
    """Bits of floating-point numbers are given as such."""
    return int(text[2:], 16) if text[:2] in ("0f", "0d") else int(text.rstrip("U"), 0)


def join_branches(code: list[dict[str, Any]], bra: int, ret: int) -> None:
    """Where the sides of a branch meet: its immediate post-dominator."""
    ends = [i for i, x in enumerate(code) if x["operation"] in (bra, ret)]
    begins = sorted({0} | {i + 1 for i in ends if i + 1 < len(code)} | {x["target"] for x in code if x["target"] >= 0})
    block_of = {begin: block for block, begin in enumerate(begins)}
    last = [begin - 1 for begin in begins[1:]] + [len(code) - 1]
    followers = [_followers(code[end], block_of, end, ret, bra, len(begins)) for end in last]
    after = [set(range(len(begins) + 1)) for _ in begins] + [{len(begins)}]
    changed = True
    while changed:
        changed = False
        for block in reversed(range(len(begins))):
            now = set.intersection(*(after[x] for x in followers[block])) | {block}
            changed |= now != after[block]
            after[block] = now
    for block, end in enumerate(last):
        if code[end]["operation"] == bra and code[end]["predicate"] >= 0:
            own = after[block] - {block}
            nearest = next(x for x in own if after[x] == own)
            code[end]["join"] = begins[nearest] if nearest < len(begins) else -2


def _followers(
    instruction: dict[str, Any], block_of: dict[int, int], end: int, ret: int, bra: int, exit_block: int
) -> list[int]:
    if instruction["operation"] == ret:
        return [exit_block]
    falls = [block_of.get(end + 1, exit_block)]
    if instruction["operation"] != bra:
        return falls
    return [block_of[instruction["target"]], *(falls if instruction["predicate"] >= 0 else [])]
