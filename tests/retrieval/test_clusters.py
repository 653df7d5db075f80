import csv
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from salcr import ops
from salcr.retrieval import Index
from salcr.retrieval.clusters import SHOWN_CLUSTERS, SHOWN_IMAGES, write_clusters
from salcr.retrieval.storage import Manifest, Storage
from tests.retrieval.pictures import PEOPLE

OPTIONS = dict(eps=0.6, min_samples=3, k1=8, k2=1)


@pytest.fixture
def groups(tmp_path, generator):
    """An index of 3 visible and 2 infrared groups of 8 features, and a lone one of each, in random order."""
    centres = F.normalize(torch.randn(5, 16, generator=generator))
    features = torch.cat([centres.repeat_interleave(8, 0), torch.randn(2, 16, generator=generator)])
    features[:40] += 0.02 * torch.randn(40, 16, generator=generator)
    infrared = torch.arange(42) >= 24
    infrared[40] = False
    order = torch.randperm(42, generator=generator)
    return index_of(tmp_path / "index", [f"/x/{i}.png" for i in range(42)], infrared[order], features[order])


def index_of(folder, paths, infrared, features):
    folder.mkdir()
    manifest = Manifest("", "", 1, 1, "auto", "float32", features.shape[1])
    with Storage.create(folder, manifest).writing() as writer:
        writer.add(paths, np.asarray(infrared), np.asarray(features))
        writer.commit(complete=True)
    return Index.open(folder, device="cpu")


@pytest.mark.parametrize("infrared", [False, True])
def test_an_index_of_one_modality(tmp_path, generator, infrared):
    features = F.normalize(torch.randn(2, 16, generator=generator)).repeat_interleave(8, 0)
    index = index_of(tmp_path / "index", [f"/x/{i}.png" for i in range(16)], [infrared] * 16, features)
    assert index.cluster(**OPTIONS).tolist() == [0] * 8 + [1] * 8


def test_each_modality_is_clustered_alone_and_numbered_on(groups):
    labels = groups.cluster(**OPTIONS)
    assert labels.dtype == np.int64
    features, infrared = torch.from_numpy(np.array(groups.features)), groups.infrared
    alone = [ops.cluster(features[torch.from_numpy(side)], **OPTIONS).numpy() for side in (~infrared, infrared)]
    assert alone[0].max() == 2 and alone[1].max() == 1
    assert np.array_equal(labels[~infrared], alone[0])
    assert np.array_equal(labels[infrared], np.where(alone[1] < 0, -1, alone[1] + 3))
    assert (labels < 0).sum() == 2


def test_both_together(groups):
    features = torch.from_numpy(np.array(groups.features))
    assert np.array_equal(groups.cluster(**OPTIONS, across=True), ops.cluster(features, **OPTIONS).numpy())


def test_the_table_and_the_page(indexed, tmp_path):
    index = Index.open(indexed / "index", device="cpu")
    labels = np.array([0, 0, 1, -1, 1, 1, 1, 0, 0, 0, 0, 0])
    assert len(labels) == 2 * PEOPLE
    index.write_clusters(labels, tmp_path / "new/out")
    with (tmp_path / "new/out/clusters.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [index.path(row) for row in range(len(index))]
    assert [int(row["label"]) for row in rows] == labels.tolist()
    assert [row["modality"] for row in rows] == ["infrared" if r else "visible" for r in index.infrared]
    page = (tmp_path / "new/out/clusters.html").read_text()
    assert "Clusters: 2, images in them: 11, in none: 1." in page
    assert page.index("<h2>0</h2>") < page.index("<h2>1</h2>")  # the larger one first
    assert "7 images, 5 of them infrared" in page and page.count("<img") == 11


def test_names_of_any_bytes_and_long_lists(tmp_path):
    count = SHOWN_CLUSTERS + 2
    labels = np.concatenate([np.arange(count), np.full(SHOWN_IMAGES, 7)])
    paths = [f'/gone/<i>"{i}\n,\udce9.png' for i in range(len(labels))]
    index = index_of(tmp_path / "index", paths, np.zeros(len(paths), bool), np.ones((len(paths), 2)))
    write_clusters(index._storage, labels, tmp_path / "out")
    content = (tmp_path / "out/clusters.csv").read_bytes()
    assert b"\xe9" in content
    rows = list(csv.reader(content.decode(errors="surrogateescape").splitlines(keepends=True)))
    assert [row[0] for row in rows[1:]] == paths
    page = (tmp_path / "out/clusters.html").read_text()
    assert f"The {SHOWN_CLUSTERS} largest clusters are shown." in page and "<i>" not in page
    shown = [7, *(label for label in range(SHOWN_CLUSTERS) if label != 7)]
    assert re.findall(r"<h2>(\d+)</h2>", page) == [str(label) for label in shown]
    assert f"{SHOWN_IMAGES + 1} images, 0 of them infrared; the first {SHOWN_IMAGES} are shown" in page


def test_what_cannot_be_clustered(groups, tmp_path):
    with pytest.raises(ValueError, match="eps"):
        groups.cluster(eps=-1)
    empty = index_of(tmp_path / "empty", [], np.zeros(0, bool), np.zeros((0, 4)))
    with pytest.raises(ValueError, match="is empty: no image has been indexed"):
        empty.cluster()
