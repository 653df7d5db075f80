"""Settings from files that anyone may have written."""

import pytest

from salcr.engine.yaml_settings import LARGEST_FILE, parse_yaml, read_settings

ALIASES = "a: &a [x, x, x]\n" + "".join(
    f"{to}: &{to} [*{of}, *{of}, *{of}]\n" for of, to in zip("abc", "bcd", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ALIASES, "is not YAML: line 2, column 8: settings cannot refer to each other"),
        ("a: &a {b: 1}\nc: {<<: *a}\n", "is not YAML: line 2, column 9: settings cannot refer to each other"),
        ("[" * 5000, "is nested too deeply for settings"),
        ("{a: " * 5000, "is nested too deeply for settings"),
        ("seed: [1\n", "is not YAML: line 2, column 1: "),
        ("seed: !!python/object/apply:os.system [true]\n", "is not YAML: line 1, column 7: could not determine"),
        ("? [a]\n: 1\n", "is not YAML: line 1, column 3: found unhashable key"),
        ("seed: 2001-99-99\n", "one of its values is not what it looks like"),
        ("seed: !!int ''\n", "one of its values is not what it looks like"),
        ("seed: !!timestamp x\n", "one of its values is not what it looks like"),
        ("seed: " + "9" * 5000, "one of its values is not what it looks like"),
        ("seed: \0\n", r"it holds '\\x00'"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        ("secret", "must hold settings by name, got a str"),
        ("- secret\n", "must hold settings by name, got a list"),
        (" " * (LARGEST_FILE + 1), f"is larger than {LARGEST_FILE} bytes"),
    ],
    ids=lambda value: None if isinstance(value, str) and value.startswith("is") else "",
)
def test_what_is_no_settings_is_named_in_one_line(tmp_path, content, message):
    file = tmp_path / "their.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_settings(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_settings_and_nothing(tmp_path):
    file = tmp_path / "our.yaml"
    file.write_text("seed: 3\ndata: {name: sysu}\n")
    assert read_settings(file) == {"seed": 3, "data": {"name": "sysu"}}
    file.write_text("# nothing\n")
    assert read_settings(file) == {}


def test_values_are_yaml_too():
    assert parse_yaml("[aim, cmrr]", "it") == ["aim", "cmrr"]
    with pytest.raises(ValueError, match="it is not YAML"):
        parse_yaml("[1", "it")
