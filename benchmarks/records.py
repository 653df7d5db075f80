"""What measurements write down, as JSON; a record of ``salcr bench`` is checked as it is read: it may be anyone's."""

import json
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from types import UnionType

from salcr.files import write_atomically

TOP = {"date": str, "commit": str | None, "device": str, "quick": bool}
TOP |= {"machine": dict, "versions": dict, "cases": dict}
MACHINE = {"cpu": str, "cores": int, "load": Real, "gpu": str | None}
VERSIONS = {"torch": str}
TIMES = ("median_ms", "p20_ms", "p80_ms", "runs")
LONGEST = 1e12  # milliseconds: 30 years


def read_record(path: Path) -> dict:
    """The record at ``path``.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none; the message, one line, names the file and what was expected.
    """
    record = _content(path)
    wrong = _wrong(record)
    if wrong is not None:
        raise ValueError(f"{path} is no record of salcr bench: {wrong}")
    return record


def read_json(path: Path) -> dict[str, dict]:
    """What ``path`` holds, by name; empty where there is no such file. Errors as :func:`read_record`'s."""
    return _content(path) if path.exists() else {}


def write_json(path: Path, content: Mapping) -> None:
    """Write ``content``; readers see the old file or the new one."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def _content(path: Path) -> object:
    content = path.read_bytes()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON") from error


def _wrong(record: object) -> str | None:
    """What a record lacks of what is read of it, or None."""
    wrong = _lacks(record, TOP, "it")
    wrong = wrong or _lacks(record["machine"], MACHINE, "machine") or _lacks(record["versions"], VERSIONS, "versions")
    if wrong is not None:
        return wrong
    for name, case in record["cases"].items():
        wrong = _lacks(case, {"note": str, "variants": dict}, f"case {name!r}")
        for variant, result in [] if wrong else case["variants"].items():
            what = f"{name}/{variant}"
            wrong = wrong or _lacks(result, {}, what) or _wrong_result(result, what)
        if wrong is not None:
            return wrong
    return None


def _lacks(value: object, fields: dict[str, type | UnionType], what: str) -> str | None:
    if not isinstance(value, dict):
        return f"{what} must be fields by name, got a {type(value).__name__}"
    for name, kind in fields.items():
        if name not in value or not isinstance(value[name], kind):
            return f"{name} of {what} must be there and a {kind.__name__ if isinstance(kind, type) else kind}"
    return None


def _wrong_result(result: dict, what: str) -> str | None:
    """What keeps a variant from having no time or all of them, and its memory from being a number."""
    times = [result.get(name) for name in TIMES] if "median_ms" in result else []
    if not all(isinstance(time, Real) and 0 < time < LONGEST for time in times):
        return f"{', '.join(TIMES)} of {what} must be numbers above 0"
    return _lacks(result, {"peak_mb": Real} if "peak_mb" in result else {}, what)
