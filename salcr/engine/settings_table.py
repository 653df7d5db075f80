"""Every setting of a run as text: its key, what it may be, its value, its meaning."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from salcr.engine.config import Config, load_config, similar_keys


class Setting(NamedTuple):
    """A row of the table; ``value`` is that of a preset, or the default."""

    key: str
    kind: str
    value: Any
    default: Any
    meaning: str


def settings_table(keys: Sequence[str] = (), *, preset: str | None = None) -> list[Setting]:
    """The settings that ``keys`` name, each a setting's key or a section's; all of them if there is none.

    Raises:
        ValueError: an unknown key or preset.
    """
    schema = Config.model_json_schema()
    chosen, defaults = (config.model_dump(mode="json") for config in (load_config(preset=preset), Config()))
    table = list(_rows(schema, schema["$defs"], chosen, defaults, ""))
    for key in keys:
        if not any(_is_named(row, key) for row in table):
            near = " or ".join(similar_keys(key))
            raise ValueError(f"unknown key {key[:80]!r}" + (f", did you mean {near}?" if near else ""))
    return [row for row in table if not keys or any(_is_named(row, key) for key in keys)]


def as_text(table: Sequence[Setting]) -> str:
    """A line for each setting, its meaning below; a value that is not the default is followed by that."""
    lines = []
    for row in table:
        other = f" (default {_plain(row.default)})" if row.value != row.default else ""
        lines.append(f"{row.key} = {_plain(row.value)}{other}  [{row.kind}]\n    {row.meaning}")
    return "\n".join(lines)


def _is_named(row: Setting, key: str) -> bool:
    return row.key == key or row.key.startswith(f"{key}.")


def _rows(
    section: Mapping[str, Any], sections: Mapping[str, Any], values: Any, defaults: Any, prefix: str
) -> Iterator[Setting]:
    for name, field in section["properties"].items():
        if "$ref" in field:
            below = sections[field["$ref"].rpartition("/")[2]]
            yield from _rows(below, sections, values[name], defaults[name], f"{prefix}{name}.")
        else:
            meaning = _without_markup(field.get("description", ""))
            yield Setting(prefix + name, _kind(field), values[name], defaults[name], meaning)


def _kind(field: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "anyOf" in field:
        return " or ".join(map(_kind, field["anyOf"]))
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return "one of " + ", ".join(map(str, field["enum"]))
    if field["type"] == "array":
        return f"list of: {_kind(field['items'])}"
    names = {"integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    name = names.get(field["type"], field.get("format", "text"))
    limits = [f"{words} {str(field[bound]).removesuffix('.0')}" for bound, words in bounds.items() if bound in field]
    return ", ".join([name, *limits])


def _plain(value: Any) -> str:
    """As it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _without_markup(text: str) -> str:
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", text)
    return " ".join(text.replace("``", "").split())
