"""Commands about one's own images: ``salcr index | search | cluster``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from salcr.cli.options import Checkpoint, Height, Layout, Width
from salcr.cli.text import printable
from salcr.defaults import NEIGHBORS

if TYPE_CHECKING:
    from salcr.retrieval import Ranking

Modality = Annotated[str, typer.Option(help="infrared, visible, or auto: told by the colours of each image.")]
Device = Annotated[str, typer.Option(help="auto (the GPU if there is one), cpu, cuda or cuda:N.")]


def index(
    images: Annotated[list[Path], typer.Argument(help="Images, and folders of them at any depth.")],
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="Folder of the index.")],
    modality: Modality = "auto",
    dtype: Annotated[str, typer.Option(help="Of the stored features: float16 or float32.")] = "float16",
    append: Annotated[bool, typer.Option("--append", help="Add images that a finished index does not have.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images that go through the network together.")] = 64,
    device: Device = "auto",
    layout: Layout = "auto",
    height: Height = None,
    width: Width = None,
) -> None:
    """Write the features of images to an index for salcr search; the same command goes on after any interruption."""
    from salcr.engine.images import counting
    from salcr.retrieval import build_index

    with counting("indexing images") as progress:
        options = dict(modality=modality, dtype=dtype, append=append, batch=batch, device=device)
        options |= dict(layout=layout, height=height, width=width)
        done = build_index(images, checkpoint, out, **options, progress=progress)
    if done.added:
        told = "told by their colours" if modality == "auto" else "as said"
        typer.echo(f"images added: {done.added - done.infrared} visible, {done.infrared} infrared ({told})")
    if done.bad:
        typer.echo(f"files skipped, as they do not decode: {done.bad}")
    typer.echo(f"index: {printable(str(out))}, images: {done.known + done.added}")


def search(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.")],
    queries: Annotated[list[Path], typer.Argument(metavar="QUERY...", help="Images, and folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Images to find for each query.")] = 20,
    modality: Modality = "auto",
    refine: Annotated[
        str, typer.Option(help="none; cmfp, over the whole index; k_reciprocal, over each query's candidates.")
    ] = "none",
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate", help="Look at a sixteenth of the index, in cells that faiss makes once and keeps."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[Optional[Path], typer.Option(help="A page of pictures to write.")] = None,  # noqa: UP045
    checkpoint: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the network of the index is now, if it was moved."),
    ] = None,
    layout: Layout = "auto",
    device: Device = "auto",
) -> None:
    """Find the images of an index most like each query."""
    from salcr.files import make_parent
    from salcr.retrieval import Index
    from salcr.retrieval.cells import CHECKED

    if html is not None:
        make_parent(html)
    opened = Index.open(folder, checkpoint=checkpoint, device=device, layout=layout)
    if not opened.complete:
        typer.echo(f"salcr: {printable(str(folder))} is not finished, images so far: {len(opened)}", err=True)
    rankings = opened.search(queries, top=top, modality=modality, refine=refine, approximate=approximate)
    notes = [f"queries: {len(rankings)}, images: {len(opened)}", f"refinement: {refine}"]
    if modality == "auto":
        notes.append("modality of the queries told by their colours")
    if opened.recall is not None:
        of = f"the first {CHECKED} queries" if len(rankings) > CHECKED else "images of the index"
        notes.append(f"recall against the exact search: {opened.recall:.1%}, of {of}")
        typer.echo(notes[-1], err=True)
    if json:
        typer.echo(_as_json(rankings))
    elif html is None:
        typer.echo("\n\n".join(_as_text(ranking, modality) for ranking in rankings))
    if html is not None:
        from salcr.retrieval import write_rankings

        title = f"Search in {folder.name or folder.absolute().name}"
        write_rankings(html, rankings, title=title, summary=", ".join(notes))
        typer.echo(f"page: {printable(str(html))}", err=json)


def cluster(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.")],
    out: Annotated[Path, typer.Option(help="Folder for clusters.csv and clusters.html.")],
    eps: Annotated[float, typer.Option(help="Largest Jaccard distance of neighbours: smaller, stricter.")] = 0.6,
    min_samples: Annotated[int, typer.Option(help="Images that close to each other that begin a cluster.")] = 4,
    k1: Annotated[int, typer.Option(help="Neighbours of the reciprocal sets.")] = NEIGHBORS,
    k2: Annotated[int, typer.Option(help="Neighbours over which encodings are averaged.")] = 6,
    across: Annotated[bool, typer.Option("--across", help="Both modalities together, not each alone.")] = False,
    device: Device = "auto",
) -> None:
    """Sort the images of an index into pseudo identities: a table and a page of pictures."""
    import numpy as np

    from salcr.files import make_parent
    from salcr.retrieval import Index

    make_parent(out / "clusters.csv")
    opened = Index.open(folder, device=device)
    labels = opened.cluster(eps=eps, min_samples=min_samples, k1=k1, k2=k2, across=across)
    opened.write_clusters(labels, out)
    inside = labels[labels >= 0]
    largest = f", in the largest: {np.bincount(inside).max()}" if len(inside) else ""
    numbers = (
        f"clusters: {labels.max() + 1}, images in them: {len(inside)}{largest}, in none: {len(labels) - len(inside)}"
    )
    typer.echo(numbers)
    typer.echo(f"table and page: {printable(str(out))}")


def _as_json(rankings: "list[Ranking]") -> str:
    import json
    from dataclasses import asdict

    return json.dumps([asdict(ranking) for ranking in rankings], indent=2)


def _as_text(ranking: "Ranking", modality: str) -> str:
    told = " (told by its colours)" if modality == "auto" else ""
    lines = [f"{printable(ranking.query)}: {_name(ranking.infrared)}{told}"]
    for place, hit in enumerate(ranking.hits, 1):
        lines.append(f"{place:4}  {hit.score:6.3f}  {_name(hit.infrared):8}  {printable(hit.path)}")
    return "\n".join(lines)


def _name(infrared: bool) -> str:
    return "infrared" if infrared else "visible"
