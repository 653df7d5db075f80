"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Optional

import typer

Checkpoint = Annotated[Path, typer.Option(help="A checkpoint of a training run, or of the authors' code.")]
Layout = Annotated[
    str, typer.Option(help="Whose names the checkpoint has: salcr, authors (the published ones), or auto, by the file.")
]
_SIZE = "Of the images that the network sees; by default {}, or as the checkpoint says."
Height = Annotated[Optional[int], typer.Option(help=_SIZE.format("288 pixels"))]  # noqa: UP045
Width = Annotated[Optional[int], typer.Option(help=_SIZE.format("144 pixels"))]  # noqa: UP045
