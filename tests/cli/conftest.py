import logging
import sys

import pytest

from salcr import cli
from tests.engine.conftest import narrow, tree  # noqa: F401


@pytest.fixture
def salcr(monkeypatch, capsys):
    """Runs the command line in this process: (exit code, what it printed, what it said on stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["salcr", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    logger = logging.getLogger("salcr")
    before = logger.level
    yield run
    logger.setLevel(before)


def assert_one_line(result, *named):
    code, out, err = result
    assert code == 1 and out == ""
    assert err.startswith("salcr: ") and err.count("\n") == 1 and err.endswith("\n")
    for text in named:
        assert str(text) in err
