import logging
import os
import re
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from salcr import ops
from salcr.models import SALCRNetwork
from salcr.models.checkpoints import load_trained
from salcr.models.features import extract_features
from salcr.retrieval import Index, Summary, build, build_index, images, storage
from salcr.retrieval.export import export_network
from salcr.retrieval.images import decode_batches, find_images
from tests import forked
from tests.engine.tree import with_channels
from tests.retrieval.conftest import save_network
from tests.retrieval.pictures import HEIGHT, PEOPLE, WIDTH

CPU = dict(device="cpu")


def contents(folder):
    index = Index.open(folder, **CPU)
    index.verify()
    return [index.path(row) for row in range(len(index))], np.array(index.features), index.infrared


def assert_same(folder, other):
    (paths, features, infrared), (others, expected, sides) = contents(folder), contents(other)
    assert paths == others and infrared.tolist() == sides.tolist()
    np.testing.assert_allclose(features.astype(np.float32), expected.astype(np.float32), atol=2e-3)


def test_every_picture_of_a_tree_is_found_by_itself(indexed):
    index = Index.open(indexed / "index", **CPU)
    assert len(index) == 2 * PEOPLE and index.complete
    paths, _ = find_images([indexed / "pictures"])
    rankings = index.search([indexed / "pictures"], top=3)
    assert [ranking.query for ranking in rankings] == paths
    for row, ranking in enumerate(rankings):
        assert len(ranking.hits) == 3
        assert ranking.hits[0].path == ranking.query and ranking.hits[0].row == row
        assert ranking.hits[0].score == pytest.approx(1, abs=1e-5)
        assert ranking.infrared == ranking.hits[0].infrared == ("night" in ranking.query)
        assert all(hit.infrared == ("night" in hit.path) for hit in ranking.hits)
        assert [hit.score for hit in ranking.hits] == sorted((hit.score for hit in ranking.hits), reverse=True)


def test_the_three_lines_of_the_documentation(indexed):
    index = Index.open(indexed / "index")
    (ranking,) = index.search(indexed / "pictures/day/p3/a.png")
    assert ranking.hits[0].path == ranking.query and len(ranking.hits) == len(index)


def test_threads_that_search_at_once_have_the_same_features(indexed, monkeypatch):
    """One that began within the other's forward pass, and goes on after it."""
    index, picture = Index.open(indexed / "index", **CPU), indexed / "pictures/day/p3/a.png"
    expected, real = index.embed([picture])[1], SALCRNetwork.embed
    inside, ended, others = threading.Event(), threading.Event(), []

    def embed(*arguments, **options):
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert ended.wait(60)
        elif not others:
            others.append(pool.submit(index.embed, [picture]))
            assert inside.wait(60)
        return real(*arguments, **options)

    monkeypatch.setattr(SALCRNetwork, "embed", embed)
    with ThreadPoolExecutor(1) as pool:
        found = index.embed([picture])[1]
        ended.set()
        assert torch.equal(found, expected) and torch.equal(others[0].result()[1], expected)


def test_features_are_those_that_evaluation_uses(indexed, checkpoint):
    index = Index.open(indexed / "index", **CPU)
    network, height, width = load_trained(checkpoint, torch.device("cpu"))
    path = indexed / "pictures/night/p2/a.png"
    pixels = np.asarray(Image.open(path).resize((width, height), Image.Resampling.BILINEAR))[None]
    expected = extract_features(network, pixels, infrared=True, batch=1, mirror=True, device=torch.device("cpu")).f
    row = [index.path(row) for row in range(len(index))].index(str(path))
    torch.testing.assert_close(torch.from_numpy(np.array(index.features[row])), expected[0])
    assert not torch.allclose(index.embed([path], modality="visible")[1], expected)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_interrupted_index_is_gone_on_with(pictures, checkpoint, tmp_path, monkeypatch, dtype):
    options = dict(dtype=dtype, batch=3, **CPU)
    whole = build_index([pictures], checkpoint, tmp_path / "whole", **options)
    assert whole == Summary(added=2 * PEOPLE, known=0, bad=0, infrared=PEOPLE)
    monkeypatch.setattr(build, "COMMIT_SECONDS", 0)
    embed, calls = build.embed, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(*arguments)

    monkeypatch.setattr(build, "embed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_index([pictures], checkpoint, tmp_path / "index", **options)
    assert len(Index.open(tmp_path / "index")) == 6 and not Index.open(tmp_path / "index").complete
    again = build_index([pictures], checkpoint, tmp_path / "index", **options)
    assert again == Summary(added=6, known=6, bad=0, infrared=again.infrared)
    assert_same(tmp_path / "index", tmp_path / "whole")


def build_and_be_killed(pictures, checkpoint, out):
    embed, calls, build.COMMIT_SECONDS = build.embed, [], 0

    def killed(*arguments):
        calls.append(0)
        return embed(*arguments) if len(calls) < 3 else signal.raise_signal(signal.SIGKILL)

    build.embed = killed
    with with_channels(8):
        build_index([pictures], checkpoint, out, batch=3, **CPU)


def test_an_index_whose_process_is_killed_is_gone_on_with(pictures, checkpoint, tmp_path):
    """By SIGKILL in the third of four batches, after which nothing of the process runs."""
    log = tmp_path / "log"
    process = forked.start(build_and_be_killed, pictures, checkpoint, tmp_path / "index", log=log)
    process.join()
    assert process.exitcode == -signal.SIGKILL, log.read_text()
    assert len(Index.open(tmp_path / "index")) == 6 and not Index.open(tmp_path / "index").complete
    again = build_index([pictures], checkpoint, tmp_path / "index", batch=3, **CPU)
    assert (again.added, again.known) == (6, 6)
    build_index([pictures], checkpoint, tmp_path / "whole", batch=3, **CPU)
    assert_same(tmp_path / "index", tmp_path / "whole")


@pytest.mark.parametrize("written", range(1, 4))  # of the files that an index begins with
def test_an_index_begun_on_a_full_disk_is_gone_on_with(pictures, checkpoint, tmp_path, monkeypatch, written):
    write, calls = storage.write_atomically, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > written:
            raise OSError(28, "No space left on device")
        write(*arguments)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(storage, "write_atomically", full)
        build_index([pictures], checkpoint, tmp_path / "index", **CPU)
    assert build_index([pictures], checkpoint, tmp_path / "index", **CPU).added == 2 * PEOPLE
    Index.open(tmp_path / "index").verify()


def test_files_of_others_are_left_alone(pictures, checkpoint, tmp_path):
    """Also under the names that an index uses."""
    np.save(tmp_path / "features.npy", np.ones((3, 256), np.float16))
    before = (tmp_path / "features.npy").read_bytes()
    with pytest.raises(FileExistsError, match="an index has a folder of its own"):
        build_index([pictures], checkpoint, tmp_path, **CPU)
    assert (tmp_path / "features.npy").read_bytes() == before


def test_new_files_are_appended_when_asked(pictures, checkpoint, tmp_path):
    out = tmp_path / "index"
    build_index([pictures / "day", pictures / "day/p1/a.png"], checkpoint, out, **CPU)
    assert len(Index.open(out)) == PEOPLE
    with pytest.raises(FileExistsError, match=rf"finished index \(images: {PEOPLE}\): --append adds"):
        build_index([pictures], checkpoint, out, **CPU)
    assert build_index([pictures], checkpoint, out, append=True, **CPU).added == PEOPLE
    assert build_index([pictures], checkpoint, out, append=True, **CPU).added == 0
    assert Index.open(out).infrared.tolist() == [False] * PEOPLE + [True] * PEOPLE


def test_files_that_do_not_decode_are_named_and_left_out(pictures, checkpoint, tmp_path, caplog):
    (pictures / "day/p0/b.png").write_bytes(b"no picture")
    (pictures / "day/p0/c.jpg").symlink_to(pictures / "absent.jpg")
    (pictures / "day/notes.txt").write_text("")
    (pictures / ".hidden.png").write_text("")
    with caplog.at_level(logging.INFO, "salcr"):
        done = build_index([pictures], checkpoint, tmp_path / "index", batch=1, **CPU)
    assert done.bad == 2 and done.added == len(Index.open(tmp_path / "index")) == 2 * PEOPLE
    said = caplog.text
    assert re.search(r"skipped .*/day/p0/b\.png: not an image in a format that is read", said)
    assert re.search(r"skipped .*/day/p0/c\.jpg: .*No such file", said)
    assert "left out, as their names are not those of images" in said and "notes.txt" in said and "hidden" not in said


def test_a_file_is_taken_whatever_its_name(pictures, checkpoint, tmp_path):
    shutil.copy(pictures / "day/p0/a.png", tmp_path / "upload.tmp")
    build_index([tmp_path / "upload.tmp"], checkpoint, tmp_path / "index", **CPU)
    assert Index.open(tmp_path / "index").path(0) == str(tmp_path / "upload.tmp")


def test_names_of_any_bytes(pictures, checkpoint, tmp_path):
    odd = pictures / os.fsdecode(b"caf\xe9\n<b>.png")
    shutil.copy(pictures / "day/p0/a.png", odd)
    build_index([odd], checkpoint, tmp_path / "index", **CPU)
    assert Index.open(tmp_path / "index").search(odd)[0].hits[0].path == str(odd)


@pytest.mark.parametrize("refine", ["cmfp", "k_reciprocal"])
def test_refinements_are_those_of_the_operators(indexed, refine, generator, monkeypatch):
    monkeypatch.setattr("salcr.retrieval.nearest.CANDIDATES", 1)  # or five times what is asked for, which is more
    index = Index.open(indexed / "index", **CPU)
    gallery = torch.from_numpy(np.array(index.features))
    query = F.normalize(gallery[:2] + 0.1 * torch.randn(2, gallery.shape[1], generator=generator))
    scores, rows = index.nearest(query, top=5, refine=refine, infrared=np.array([False, True]))
    side = torch.from_numpy(index.infrared)
    if refine == "k_reciprocal":  # each query alone
        distances = torch.cat([ops.rerank_k_reciprocal(query[i : i + 1], gallery) for i in range(2)])
        expected = (1 - distances).sort(dim=1, descending=True, stable=True)
        near = index.nearest(query, top=5)[1].sort().values  # all that are looked at for one
        first = [x[ops.rerank_k_reciprocal(query[i : i + 1], gallery[x])[0].argmin()] for i, x in enumerate(near)]
        assert index.nearest(query, top=1, refine=refine)[1][:, 0].tolist() == first
    else:
        visible, infrared = ops.propagate_features(
            torch.cat([gallery[~side], query[:1]]), torch.cat([gallery[side], query[1:]])
        )
        moved = torch.empty_like(gallery)
        moved[~side], moved[side] = visible[:-1], infrared[:-1]
        asked = torch.stack([visible[-1], infrared[-1]])
        expected = (asked @ moved.T).sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(scores, expected.values[:, :5])
    assert torch.equal(rows, expected.indices[:, :5])


def test_cmfp_needs_both_modalities(pictures, checkpoint, tmp_path):
    build_index([pictures / "day"], checkpoint, tmp_path / "index", **CPU)
    index = Index.open(tmp_path / "index", **CPU)
    with pytest.raises(ValueError, match="hold visible ones alone: choose another refinement"):
        index.search(pictures / "day/p0", refine="cmfp")
    assert len(index.search(pictures / "night/p0", refine="cmfp")[0].hits) == PEOPLE


def test_an_index_of_another_network_is_refused(indexed, other_checkpoint, pictures):
    query = pictures / "day/p0/a.png"
    with pytest.raises(ValueError, match="is an index of another network: it was made with ") as caught:
        Index.open(indexed / "index", checkpoint=other_checkpoint).search(query)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="index of another network"):
        build_index([pictures], other_checkpoint, indexed / "index", append=True, dtype="float32")


@pytest.mark.parametrize("name", ["absent.pt", "pipe"])
def test_a_checkpoint_that_is_gone_or_no_file_is_named(indexed, tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    index = Index.open(indexed / "index", checkpoint=tmp_path / name)
    with pytest.raises(FileNotFoundError, match=f"no checkpoint .*{name}: --checkpoint says where it is now"):
        index.search(indexed / "pictures/day/p0/a.png")


def test_the_same_weights_in_another_file_are_the_same_network(indexed, tmp_path):
    moved = save_network(tmp_path / "moved.pt")
    index = Index.open(indexed / "index", checkpoint=moved)
    assert index.search(indexed / "pictures/day/p0/a.png", top=1)[0].hits[0].row == 0


def test_a_file_of_the_authors_code_makes_the_same_index(indexed, checkpoint, tmp_path):
    theirs = tmp_path / "theirs.pth.tar"
    export_network(checkpoint, theirs, format="authors")
    query = indexed / "pictures/day/p0/a.png"
    index = Index.open(indexed / "index", checkpoint=theirs, layout="authors")
    assert index.search(query, top=1)[0].hits[0].row == 0
    size = dict(height=HEIGHT, width=WIDTH)
    options = dict(dtype="float32", layout="authors", **size, **CPU)
    build_index([indexed / "pictures"], theirs, tmp_path / "index", **options)
    assert_same(tmp_path / "index", indexed / "index")
    with pytest.raises(ValueError, match=r"theirs\.pth\.tar is not a training checkpoint"):
        Index.open(tmp_path / "index", layout="salcr").search(query)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(top=0), "top must be at least 1"),
        (dict(refine="aim"), "refine must be one of none, cmfp, k_reciprocal, got 'aim'"),
        (dict(modality="thermal"), "modality must be one of infrared, visible, auto, got 'thermal'"),
        (dict(refine="cmfp", approximate=True), "an approximate search is not refined"),
    ],
)
def test_wrong_options_of_a_search(indexed, options, message):
    with pytest.raises(ValueError, match=message):
        Index.open(indexed / "index").search(indexed / "pictures/day/p0/a.png", **options)


def test_queries_that_are_none(indexed, tmp_path):
    index = Index.open(indexed / "index")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 of 2 queries do not decode: .*bad\.png \(not an image"):
        index.search([tmp_path / "bad.png", indexed / "pictures/day/p0/a.png"])
    with pytest.raises(FileNotFoundError, match="absent"):
        index.search(tmp_path / "absent.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image in "):
        index.search(tmp_path / "empty")
    with pytest.raises(ValueError, match="needs infrared"):
        index.nearest(torch.ones(1, index.features.shape[1]), refine="cmfp")


def test_an_index_of_no_image(checkpoint, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    build_index([tmp_path], checkpoint, tmp_path / "index", **CPU)
    with pytest.raises(ValueError, match="is empty: no image has been indexed"):
        Index.open(tmp_path / "index").nearest(torch.ones(1, 256))


def test_what_an_index_cannot_be_made_of(pictures, checkpoint, tmp_path):
    out = tmp_path / "index"
    for options, message in (
        (dict(modality="thermal"), "modality must be one of"),
        (dict(dtype="int8"), "dtype must be one of float16, float32"),
        (dict(batch=0), "batch must be at least 1"),
        (dict(device="gpu"), "device 'gpu' is no device"),
    ):
        with pytest.raises(ValueError, match=message):
            build_index([pictures], checkpoint, out, **options)
    with pytest.raises(FileNotFoundError, match="absent"):
        build_index([pictures / "absent"], checkpoint, out)
    with pytest.raises(FileExistsError, match="an index has a folder of its own"):
        build_index([pictures], checkpoint, pictures)
    assert not out.exists()
    build_index([pictures / "day"], checkpoint, out, **CPU)
    for option, message in (
        (dict(dtype="float32"), "dtype float16, not float32"),
        (dict(modality="visible"), "modality auto, not visible"),
        (dict(height=48), f"height {HEIGHT}, not 48"),
        (dict(width=24), f"width {WIDTH}, not 24"),
    ):
        with pytest.raises(ValueError, match=f"was begun with {message}: give the same or make another index"):
            build_index([pictures], checkpoint, out, append=True, **option, **CPU)
    assert len(Index.open(out)) == PEOPLE


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "it has no setting model.architecture"),
        ({"model": []}, "it has no setting model.architecture"),
        ({"model": {"architecture": "vgg", "parts": 2}}, "model.architecture must be one of resnet50"),
        ({"model": {"architecture": "tiny", "parts": 2.0}}, "model.parts must be a whole number from 1 to 256"),
        ({"model": {"architecture": "tiny", "parts": 2}}, "it has no setting data.height"),
        ({"model": {"architecture": "tiny", "parts": 2}, "data": {"height": 9**9, "width": 1}}, "data.height must be"),
    ],
)
def test_checkpoints_without_their_settings(pictures, tmp_path, config, message):
    torch.save({"config": config}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=message) as caught:
        build_index([pictures], tmp_path / "c.pt", tmp_path / "index")
    assert str(tmp_path / "c.pt") in str(caught.value)


def test_colours_are_looked_at_on_the_threads_that_decode(pictures, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    both = threading.Barrier(2, timeout=30)  # which one thread alone would wait for in vain
    monkeypatch.setattr(images, "is_infrared", lambda *_: both.wait() >= 0)
    (batch,) = decode_batches(find_images([pictures])[0], height=8, width=4, modality="auto", batch=100)
    assert not batch.bad and len(batch.infrared) == 2 * PEOPLE


def test_the_next_batch_is_decoded_while_one_is_used(pictures, monkeypatch):
    paths, _ = find_images([pictures])
    begun, read = [], images.read_resized
    monkeypatch.setattr(images, "read_resized", lambda path, *size: begun.append(path) or read(path, *size))
    batches = decode_batches(paths, height=8, width=4, modality="auto", batch=2)
    first = next(batches)
    assert first.paths == paths[:2] and first.pixels.shape == (2, 8, 4, 3)
    for _ in range(3000):
        if len(begun) >= 4:
            break
        time.sleep(0.01)
    assert len(begun) >= 4
    batches.close()
