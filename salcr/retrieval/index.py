"""Search in an index, with pictures as queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from salcr.data._images import name_some
from salcr.defaults import NEIGHBORS
from salcr.models import SALCRNetwork
from salcr.models.checkpoints import load_trained, network_hash
from salcr.models.features import backbone_for_features, pick_device
from salcr.retrieval.build import check_network
from salcr.retrieval.cells import Cells, open_cells
from salcr.retrieval.clusters import cluster, write_clusters
from salcr.retrieval.codes import verify_codes
from salcr.retrieval.images import decode_batches, embed, find_images
from salcr.retrieval.modality import check_modality
from salcr.retrieval.nearest import REFINEMENTS, nearest
from salcr.retrieval.page import write_page
from salcr.retrieval.storage import Storage


@dataclass(frozen=True)
class Hit:
    """An image that was found.

    Attributes:
        path: absolute, where the image lay when it was indexed.
        score: the larger the nearer: the cosine of the features, with ``cmfp`` that of the propagated features, with
            ``k_reciprocal`` one less the re-ranked distance.
        infrared: its modality in the index.
        row: of the index.
    """

    path: str
    score: float
    infrared: bool
    row: int


@dataclass(frozen=True)
class Ranking:
    """A query and what was found, nearest first; ``infrared`` is the modality that the query was taken for."""

    query: str
    infrared: bool
    hits: tuple[Hit, ...]


def write_rankings(path: Path, rankings: Sequence[Ranking], *, title: str, summary: str) -> None:
    """A page of the queries and the pictures that were found for each, nearest first.

    Raises:
        OSError: the file cannot be written.
    """
    write_page(path, "search.html", title=title, summary=summary, rankings=rankings)


class Index:
    """Features of images on the disk, and the network to ask them with; open one by :meth:`open`.

    Attributes:
        recall: of the last approximate search, the share of what the exact one finds that it found: of its first 32
            queries where it had more than these, else of 32 images of the index when its cells were made. Else None.
    """

    def __init__(self, storage: Storage, checkpoint: Path, device: torch.device, layout: str = "auto") -> None:
        self._storage, self._checkpoint, self._device, self._layout = storage, checkpoint, device, layout
        self._network: SALCRNetwork | None = None
        self._cells: Cells | None = None
        self.recall: float | None = None

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        checkpoint: str | Path | None = None,
        device: str = "auto",
        layout: str = "auto",
    ) -> "Index":
        """An index that :func:`salcr.retrieval.build_index` or ``salcr index`` made.

        The checkpoint is read with the first search by pictures. The lengths of all files are compared with the
        manifest here, and the checksum of the paths; :meth:`verify` reads the features too.

        Args:
            folder: the index's.
            checkpoint: where the network is now; by default where it was when the index was made.
            device: where to compute, see :func:`salcr.models.features.pick_device`.
            layout: of the checkpoint, see :func:`salcr.models.checkpoints.load_trained`.

        Raises:
            FileNotFoundError: there is no index.
            ValueError: it is damaged; the message, one line, names the file.
        """
        storage = Storage(folder)
        return cls(storage, Path(checkpoint or storage.manifest.checkpoint), pick_device(device), layout)

    def __len__(self) -> int:
        return self._storage.manifest.rows

    @property
    def complete(self) -> bool:
        """Whether all images that were asked for are in it."""
        return self._storage.manifest.complete

    @property
    def features(self) -> np.ndarray:
        """``[N, D]``, float16 or float32, unit rows but for rounding, memory-mapped."""
        return self._storage.features(0, len(self))

    @property
    def infrared(self) -> np.ndarray:
        """``[N]``, bool: which images are infrared."""
        return self._storage.infrared()

    def path(self, row: int) -> str:
        """Where the image of a row lay when it was indexed."""
        return self._storage.path(row)

    def verify(self) -> None:
        """Read every byte.

        Raises:
            ValueError: one is not what was written; the message names the file.
        """
        self._storage.verify()
        verify_codes(self._storage)

    def search(
        self,
        queries: str | Path | Sequence[str | Path],
        *,
        top: int = 20,
        modality: str = "auto",
        refine: str = "none",
        approximate: bool = False,
    ) -> list[Ranking]:
        """The images of the index most like each query.

        Args:
            queries: a picture or several; folders are searched at any depth.
            top: images to find for each, at most as many as the index has.
            modality: of the queries: ``"infrared"``, ``"visible"``, or ``"auto"``, see
                :func:`salcr.retrieval.modality.chroma`.
            refine: ``"none"``; ``"cmfp"``, over the whole index and all queries together; ``"k_reciprocal"``, over the
                candidates nearest to each query.
            approximate: look at a sixteenth of the index alone, by faiss; see ``recall``. The first such search makes
                cells, and keeps them in the index's folder.

        Raises:
            FileNotFoundError: a query or the checkpoint is missing.
            ValueError: a query does not decode (the first ten are named), the checkpoint holds another network than the
                index was made with, a wrong option, an empty index, faiss is not installed.
        """
        places = [queries] if isinstance(queries, (str, Path)) else queries
        paths, features, infrared = self.embed(places, modality=modality)
        scores, rows = self.nearest(features, top=top, infrared=infrared, refine=refine, approximate=approximate)
        sides = self.infrared
        return [
            Ranking(
                path,
                bool(side),
                tuple(
                    Hit(self.path(row), score, bool(sides[row]), row)
                    for row, score in zip(its_rows, its_scores, strict=True)
                ),
            )
            for path, side, its_rows, its_scores in zip(paths, infrared, rows.tolist(), scores.tolist(), strict=True)
        ]

    def embed(
        self, images: Sequence[str | Path], *, modality: str = "auto"
    ) -> tuple[list[str], torch.Tensor, np.ndarray]:
        """Absolute paths of pictures, their unit features ``[Q, D]``, and which are infrared ``[Q]``.

        Raises:
            FileNotFoundError, ValueError: as :meth:`search`.
        """
        check_modality(modality)
        paths, _ = find_images(images)
        if not paths:
            raise ValueError(f"no image in {', '.join(map(str, images))}")
        network = self._load_network()
        size = dict(height=self._storage.manifest.height, width=self._storage.manifest.width)
        features, sides, bad = [], [], []
        for some in decode_batches(paths, **size, modality=modality, batch=64):
            bad += [f"{path} ({reason})" for path, reason in some.bad]
            if not bad:
                features.append(embed(network, some, self._device))
                sides.append(some.infrared)
        if bad:
            raise ValueError(f"{len(bad)} of {len(paths)} queries do not decode: {name_some(bad)}")
        return paths, torch.cat(features), np.concatenate(sides)

    def nearest(
        self,
        features: torch.Tensor,
        *,
        top: int = 20,
        infrared: np.ndarray | None = None,
        refine: str = "none",
        approximate: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores ``[Q, top]``, largest first, and rows ``[Q, top]`` for features ``[Q, D]`` instead of pictures.

        Args:
            features: float32, of the index's network; normalised here.
            infrared: ``[Q]``, bool, needed for ``refine="cmfp"``.
            top, refine, approximate: as in :meth:`search`.

        Raises:
            ValueError: as :meth:`search`; features of another width, or with NaN or Inf, on either side.
        """
        if not len(self):
            raise ValueError(f"{self._storage.folder} is empty: no image has been indexed")
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        if refine not in ("none", *REFINEMENTS):
            raise ValueError(f"refine must be one of none, {', '.join(REFINEMENTS)}, got {refine!r}")
        if approximate and refine != "none":
            raise ValueError(f"an approximate search is not refined: leave out approximate or refine={refine!r}")
        if refine == "cmfp" and infrared is None:
            raise ValueError("refine='cmfp' needs infrared, the modality of each query")
        width = self._storage.manifest.dimension
        if features.ndim != 2 or features.shape[1] != width:
            raise ValueError(f"features must be [Q, {width}], got {list(features.shape)}")
        top, self.recall = min(top, len(self)), None
        if approximate:
            self._cells = self._cells or open_cells(self._storage)
            found, self.recall = self._cells.nearest(features, top)
        elif refine == "none":
            found = nearest(self._storage, features, top)
        else:
            sides = torch.from_numpy(np.zeros(len(features), bool) if infrared is None else np.asarray(infrared))
            found = REFINEMENTS[refine](self._storage, features, sides, top)
        return found

    def cluster(
        self, *, eps: float = 0.6, min_samples: int = 4, k1: int = NEIGHBORS, k2: int = 6, across: bool = False
    ) -> np.ndarray:
        """Pseudo identities ``[N]``, int64, -1 for images that are in no cluster.

        By default the images of each modality are clustered alone, as in training, and infrared clusters are numbered
        after the visible ones. All features are in memory.

        Args:
            eps, min_samples, k1, k2: see :func:`salcr.ops.cluster`.
            across: cluster images of both modalities together.

        Raises:
            TypeError, ValueError: a wrong option, an empty index, a feature with NaN or Inf.
        """
        options = dict(eps=eps, min_samples=min_samples, k1=k1, k2=k2, across=across)
        return cluster(self._storage, self._device, **options)

    def write_clusters(self, labels: np.ndarray, out: str | Path) -> None:
        """Write labels of :meth:`cluster` to ``clusters.csv`` in the folder ``out``, and a page of their pictures.

        Raises:
            OSError: they cannot be written.
        """
        write_clusters(self._storage, labels, Path(out))

    def _load_network(self) -> SALCRNetwork:
        if self._network is None:
            if not self._checkpoint.is_file():  # the manifest may be anyone's, and name a pipe
                raise FileNotFoundError(f"no checkpoint {self._checkpoint}: --checkpoint says where it is now")
            network = load_trained(self._checkpoint, self._device, layout=self._layout).network
            check_network(self._storage, network_hash(network))
            network.backbone = backbone_for_features(network.backbone)  # else each search, in any thread, would swap it
            self._network = network
        return self._network
