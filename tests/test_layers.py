"""Which room may import which: no arrow up, no circle, and reference for the backends of that name alone."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {  # each with the rooms it may import
    "kernels": set(),
    "reference": set(),
    "ops": {"kernels", "reference"},
    "nn": {"ops"},
    "models": {"nn", "ops"},
    "data": {"ops"},
    "objectives": {"models", "nn", "ops"},
    "engine": {"data", "models", "nn", "objectives", "ops"},
    "retrieval": {"data", "models", "ops"},
    "compat": {"ops"},
    "cli": {"data", "engine", "ops", "retrieval"},
}

SHARED = {"salcr", "defaults", "distributed", "files", "jit", "surroundings"}  # which every room may import
SHARED |= {"use_backend", "cluster", "_C", "_cuda", "__version__"}


def imports(path):
    """Modules of salcr that the file imports anywhere, also inside functions; names of modules count as modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "salcr"}


def modules():
    files = [path for path in (ROOT / "salcr").rglob("*.py") if "kernels" not in path.parts]
    named = {path: path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in files}
    return {name.removesuffix(".__init__"): path for path, name in named.items()}


def owner(name, known):
    """The module that an imported dotted name stands for: itself, or what it is a member of."""
    while name not in known and "." in name:
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room):
    folder = ROOT / ("kernels" if room == "kernels" else f"salcr/{room}")
    for path in folder.rglob("*.py"):
        for name in imports(path):
            target = name.split(".")[1] if "." in name else "salcr"
            if target in SHARED:
                continue
            assert target == room or target in ROOMS[room], f"{path.relative_to(ROOT)} imports {name}"


def test_backends_and_reference_are_reached_through_ops_alone():
    for path in (ROOT / "salcr").rglob("*.py"):
        inside = path.relative_to(ROOT / "salcr").as_posix()
        for name in imports(path):
            assert "salcr.ops.backends" not in name or inside.startswith("ops/") or inside == "cli/info.py", inside
            if name.startswith("salcr.reference") and not inside.startswith("reference/"):
                technology = inside.split("/")[2] if inside.startswith("ops/backends/") else "the table of ops"
                assert technology in ("the table of ops", "reference", "eager", "numba"), f"{inside} imports {name}"


def test_there_is_no_circle():
    known = modules()
    graph = {name: {owner(x, known) for x in imports(path)} - {name} for name, path in known.items()}
    packages = {name for name, path in known.items() if path.name == "__init__.py"}
    for name, targets in graph.items():  # a member imports its package's file before itself, which is no circle
        graph[name] = {x for x in targets if x in known and not (x in packages and name.startswith(f"{x}."))}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle
