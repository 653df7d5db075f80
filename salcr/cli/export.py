"""The command that hands a network on: ``salcr export``."""

from pathlib import Path
from typing import Annotated

import typer

from salcr.cli.options import Checkpoint, Height, Layout, Width
from salcr.cli.text import printable


def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    format: Annotated[
        str, typer.Option(help="onnx; torch, for torch.export.load; or authors, weights under the published names.")
    ],
    modality: Annotated[
        str, typer.Option(help="visible, infrared, or both, with an input that says which a picture is.")
    ] = "both",
    dtype: Annotated[str, typer.Option(help="Of the arithmetic: float32, float16 or bfloat16.")] = "float32",
    input: Annotated[
        str, typer.Option(help="uint8, pictures [B, H, W, 3]; or float32, [B, 3, H, W] from 0 to 1.")
    ] = "uint8",
    mirror: Annotated[
        bool,
        typer.Option("--mirror", help="Average with the mirror image's feature, as an index does."),
    ] = False,
    layout: Layout = "auto",
    height: Height = None,
    width: Width = None,
) -> None:
    """Write a trained network to a file that runs without salcr, and compare the two on ten pictures."""
    from salcr.retrieval.export import CHECKED, export_network

    options = dict(format=format, modality=modality, dtype=dtype, input=input, mirror=mirror)
    options |= dict(layout=layout, height=height, width=width)
    check = export_network(checkpoint, out, **options)
    if check is not None:
        typer.echo(
            f"run by {check.ran_on} on {CHECKED} pictures: features differ from the network's by at most "
            f"{check.difference:.1e}, smallest cosine {check.cosine:.7f}"
        )
    typer.echo(f"{format}: {printable(str(out))}")
