"""Records of ``salcr bench`` read back: checked, since a file that is given on the command line may be anything."""

import json
from numbers import Real
from pathlib import Path

TOP = {"date": str, "machine": dict, "versions": dict, "device": str, "quick": bool, "cases": dict}
MACHINE = {"cpu": str, "cores": int, "load": Real}
TIMES = ("median_ms", "p20_ms", "p80_ms", "runs")
LONGEST = 1e12  # milliseconds: 30 years


def read_record(path: Path) -> dict:
    """The record at ``path``.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none; the message, one line, names the file and what was expected.
    """
    record = read_json(path)
    wrong = _wrong(record)
    if wrong is not None:
        raise ValueError(f"{path} is no record of salcr bench: {wrong}")
    return record


def read_json(path: Path) -> object:
    """What ``path`` holds; errors as :func:`read_record`'s."""
    content = path.read_bytes()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON") from error


def _wrong(record: object) -> str | None:
    """What a record lacks of what is read of it, or None."""
    wrong = _lacks(record, TOP, "it") or _lacks(record["machine"], MACHINE, "machine")
    if wrong is not None:
        return wrong
    for name, case in record["cases"].items():
        wrong = _lacks(case, {"note": str, "variants": dict}, f"case {name!r}")
        for variant, result in [] if wrong else case["variants"].items():
            wrong = wrong or _lacks(result, {}, f"{name}/{variant}") or _no_times(result, f"{name}/{variant}")
        if wrong is not None:
            return wrong
    return None


def _lacks(value: object, fields: dict[str, type], what: str) -> str | None:
    if not isinstance(value, dict):
        return f"{what} must be fields by name, got a {type(value).__name__}"
    for name, kind in fields.items():
        if not isinstance(value.get(name), kind):
            return f"{name} of {what} must be there and a {kind.__name__.lower()}"
    return None


def _no_times(result: dict, what: str) -> str | None:
    """A variant has no time, or all of them."""
    times = [result.get(name) for name in TIMES] if "median_ms" in result else []
    if all(isinstance(time, Real) and 0 < time < LONGEST for time in times):
        return None
    return f"{', '.join(TIMES)} of {what} must be numbers above 0"
