"""Pseudo identities of the images of an index: who is the same person, without any labels."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from salcr import ops
from salcr.files import write_atomically
from salcr.retrieval.nearest import read_features
from salcr.retrieval.page import write_page
from salcr.retrieval.storage import Storage

TABLE, SHEET = "clusters.csv", "clusters.html"
SHOWN_CLUSTERS, SHOWN_IMAGES = 100, 12
NOISE = -1


class Cluster(NamedTuple):
    """What the contact sheet shows of a cluster."""

    label: int
    size: int
    infrared: int
    paths: list[str]


def cluster(
    storage: Storage,
    device: torch.device,
    *,
    eps: float,
    min_samples: int,
    k1: int,
    k2: int,
    across: bool,
) -> np.ndarray:
    """See :meth:`salcr.retrieval.Index.cluster`."""
    if not storage.manifest.rows:
        raise ValueError(f"{storage.folder} is empty: no image has been indexed")
    features = read_features(storage, 0, storage.manifest.rows, device)
    infrared = torch.from_numpy(storage.infrared()).to(device)
    labels = torch.full_like(infrared, NOISE, dtype=torch.int64)
    sides = [torch.ones_like(infrared)] if across else [~infrared, infrared]
    first = 0
    for side in sides:
        if side.any():
            found = ops.cluster(features[side], eps=eps, min_samples=min_samples, k1=k1, k2=k2)
            labels[side] = torch.where(found < 0, NOISE, found + first)
            first = int(labels.max()) + 1
    return labels.cpu().numpy()


def write_clusters(storage: Storage, labels: np.ndarray, out: Path) -> None:
    """Write ``clusters.csv`` (path, label, modality; noise has the label -1) and ``clusters.html``, a contact sheet.

    The sheet shows the largest clusters, equal ones by label, and some images of each.

    Raises:
        OSError: they cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    infrared = storage.infrared()
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(("path", "label", "modality"))
    sides = np.where(infrared, "infrared", "visible")
    writer.writerows(zip(storage.paths(), labels.tolist(), sides.tolist(), strict=True))
    write_atomically(out / TABLE, table.getvalue().encode(errors="surrogateescape"))
    names, sizes = np.unique(labels[labels != NOISE], return_counts=True)
    shown = []
    for place in np.argsort(-sizes, kind="stable")[:SHOWN_CLUSTERS]:
        rows = np.flatnonzero(labels == names[place])
        paths = [storage.path(row) for row in rows[:SHOWN_IMAGES].tolist()]
        shown.append(Cluster(int(names[place]), len(rows), int(infrared[rows].sum()), paths))
    noise = int((labels == NOISE).sum())
    counts = f"Clusters: {len(names)}, images in them: {len(labels) - noise}, in none: {noise}."
    if len(names) > len(shown):
        counts += f" The {len(shown)} largest clusters are shown."
    title = f"Clusters of {storage.folder.name or storage.folder.absolute().name}"
    write_page(out / SHEET, "clusters.html", title=title, summary=counts, clusters=shown)
