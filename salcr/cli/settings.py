"""The command that lists a run's settings: ``salcr config``."""

from typing import Annotated, Optional

import typer


def config(
    keys: Annotated[list[str] | None, typer.Argument(help="Settings and sections, as schedule.lr or dagi.")] = None,
    preset: Annotated[Optional[str], typer.Option(help="Whose values to show instead of the defaults.")] = None,  # noqa: UP045
) -> None:
    """List the settings of a training run: key, value, what it may be, and what it means."""
    from salcr.engine.settings_table import as_text, settings_table

    typer.echo(as_text(settings_table(keys or (), preset=preset)))
