"""Settings from YAML that anyone may have written: plain values, of bounded size, and errors that repeat none of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

LARGEST_FILE = 1 << 16  # bytes; a configuration takes about 2,000


def read_settings(file: Path) -> Mapping[str, Any]:
    """The settings in ``file``, none where it is empty.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no YAML, no settings by name, or larger than ``LARGEST_FILE``.
    """
    with file.open("rb") as stream:
        content = stream.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"{file} is no configuration: it is larger than {LARGEST_FILE} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not YAML: it is not UTF-8 text") from error
    found = parse_yaml(text, str(file))
    if found is not None and not isinstance(found, Mapping):
        raise ValueError(f"{file} must hold settings by name, got a {type(found).__name__}")
    return found or {}


def parse_yaml(text: str, what: str) -> Any:
    """The value of ``text``, which messages call ``what``; a path that is not UTF-8 is its own.

    Raises:
        ValueError: it is no YAML, is nested too deeply, or refers to parts of itself.
    """
    if any("\udc80" <= character <= "\udcff" for character in text):  # Python's for bytes of names that are no text
        return text
    try:
        return yaml.load(text, _WithoutAliases)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{what} is not YAML: {place}{error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        raise ValueError(f"{what} is not YAML: it holds {chr(int(error.character))!r}") from error
    except RecursionError as error:
        raise ValueError(f"{what} is nested too deeply for settings") from error
    except Exception as error:  # values that are no date or number but look like one
        raise ValueError(f"{what} is not YAML: one of its values is not what it looks like") from error


class _WithoutAliases(yaml.SafeLoader):
    """A few lines of aliases make gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="settings cannot refer to each other with *", problem_mark=mark)
        return super().compose_node(parent, index)
