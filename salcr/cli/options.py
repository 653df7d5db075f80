"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Optional

import typer

Checkpoint = Annotated[Path, typer.Option(help="A checkpoint of a training run, or of the authors' code.")]
Layout = Annotated[
    str, typer.Option(help="Of the checkpoint: salcr; authors, with the published names; auto, what it has.")
]
_SIZE = "Of the images that the network sees; by default {}, or as the checkpoint says."
Height = Annotated[Optional[int], typer.Option(help=_SIZE.format("288 pixels"))]  # noqa: UP045
Width = Annotated[Optional[int], typer.Option(help=_SIZE.format("144 pixels"))]  # noqa: UP045
