import base64
import hashlib
import re

import numpy as np
import pytest
from PIL import Image

from salcr.retrieval.report import write_report
from salcr.retrieval.report_pictures import ContactSheets, Picture, Ranked, Sheet, amount
from salcr.retrieval.report_run import read_runs
from tests.retrieval.run_folders import write_run
from tests.retrieval.test_page import Elements

HOSTILE = "<script>alert(1)</script>\"'{{ 7**7 }}\udce9"


def with_pictures(run, files):
    """``run`` with as many pictures as a page of ten runs has, of ``files``."""
    wanted = amount(10)
    hits = [Picture(str(file), right) for file, right in zip(files, [True, False] * wanted.hits, strict=False)]
    ranked = [Ranked(str(files[0]), 0.25, 3, hits[: wanted.hits])] * wanted.lists
    sheet = Sheet(4, 12, 2, 1, hits[: wanted.images])
    run.pictured, run.ranked, run.worst = "By the network of epoch 3.", ranked, ranked
    run.clusters = [
        ContactSheets(side, clusters, 1, noise, [sheet] * wanted.clusters)
        for side, clusters, noise in (("visible", 9, 2), ("infrared", 1, 1))
    ]
    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pictures that no format makes small."""
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for n in range(10):
        Image.fromarray(rng.integers(0, 256, (192, 96, 3), dtype=np.uint8)).save(folder / f"{n:02d}.png")
    return sorted(folder.iterdir())


def page_of(path, *runs):
    write_report(path, runs)
    return path.read_text()


def rows_of(table):
    """The texts of a table's cells."""
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    cells = (re.findall(r"<t[hd]\b.*?</t[hd]>", row, re.DOTALL) for row in rows)
    return [[re.sub(r"<.*?>", "", cell).strip() for cell in of_row] for of_row in cells]


def test_the_page_of_a_run(tmp_path, files):
    (run,) = read_runs([write_run(tmp_path / "mine")])
    run.settings = {"schedule.lr": 0.125, "seed": 3}
    run.notes.append("no clusters: why not")
    text = page_of(tmp_path / "page.html", with_pictures(run, files))
    seen = Elements(text)
    for expected in ("Run mine", "finished", "20.00", "50.00", "all-single", "last epoch", "schedule.lr", "0.125"):
        assert expected in seen.text
    for expected in (
        "no clusters: why not",
        "AP 25.0 %, first right image at rank 3",
        "of 2 people",
        "1 impure; 2 images in none",
    ):
        assert expected in seen.text
    pictures = [a for tag, a in seen.found if tag == "img"]
    assert len(pictures) == 36 + 36 and all(a["src"].startswith("data:image/jpeg;base64,") for a in pictures)
    frames = [a.get("class") for tag, a in seen.found if tag == "li"]
    assert (frames.count("right"), frames.count("wrong")) == (36, 32)
    assert sum(tag == "svg" for tag, _ in seen.found) == 13


def test_the_numbers_of_the_tables(tmp_path):
    text = page_of(tmp_path / "page.html", *read_runs([write_run(tmp_path / "mine")]))
    overview, results = (rows_of(table) for table in re.findall(r"<table.*?</table>", text, re.DOTALL)[:2])
    (row,) = overview[1:]
    assert " ".join(row) == "mine finished 4 0.40 53 53 3.00 3.00 0.50 0.50 50.00 62.50"
    assert results[0] == [
        *("protocol", "run", "network", "rank-1", "rank-10", "mAP", "mINP"),
        *("cmfp rank-1", "cmfp mAP", "cmfp mINP"),
    ]
    raw, refined = ["30.00", "60.50", "20.00", "10.00"], ["30.00", "30.00", "10.00"]
    assert results[1] == ["all-single", "mine", "stage one", *raw, *refined]


def test_runs_stand_side_by_side(tmp_path):
    runs = read_runs([write_run(tmp_path / name) for name in ("one", "two")])
    for run in runs:
        run.settings = {"seed": run.name, "device": "cpu", "lr": 0.1}
    seen = Elements(page_of(tmp_path / "page.html", *runs))
    assert "2 runs" in seen.text and "2 settings that all runs share" in seen.text
    colours = [a["class"] for tag, a in seen.found if tag == "i"]
    assert {"s0", "s1"} == set(colours)
    lines = [a["class"] for tag, a in seen.found if tag == "path" and "line" in a["class"]]
    assert lines.count("line s0") == lines.count("line s1") == 13


def test_what_is_missing_from_several_runs_is_said_once(tmp_path):
    runs = read_runs([write_run(tmp_path / name, finished=False) for name in ("one", "two")])
    for run in runs:
        run.notes.append("no pictures: left out")
    assert Elements(page_of(tmp_path / "page.html", *runs)).text.count("one, two: no pictures: left out") == 1


def test_ten_runs_of_eighty_epochs_stay_below_five_megabytes(tmp_path, files):
    runs = read_runs([write_run(tmp_path / f"run_{n}", 80) for n in range(10)])
    text = page_of(tmp_path / "page.html", *(with_pictures(run, files) for run in runs))
    assert text.count("<img") == 720
    assert len(text.encode()) < 5e6


def test_the_page_loads_nothing_and_its_policy_allows_its_own_script_alone(tmp_path):
    text = page_of(tmp_path / "page.html", *read_runs([write_run(tmp_path / "mine")]))
    assert not re.search(r"url\(|@import|https?:|\bsrc=(?!.data:)", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\">" in text


def test_names_of_strangers_are_text(tmp_path):
    (run,) = read_runs([write_run(tmp_path / "mine")])
    run.name, run.state, run.notes, run.settings = HOSTILE, HOSTILE, [HOSTILE], {HOSTILE: HOSTILE}
    run.results = [(HOSTILE, {HOSTILE: {"mAP": HOSTILE, HOSTILE: {"mAP": 3}}})]
    run.records.append({"epoch": 9, "loss": {HOSTILE: 1.5}, "evaluation": {HOSTILE: {"mAP": 3, HOSTILE: {"mAP": 4}}}})
    run.ranked = [Ranked(HOSTILE, 0.5, 1, [Picture(HOSTILE, True)])]
    seen = Elements(page_of(tmp_path / "page.html", run))
    assert sum(tag == "script" for tag, _ in seen.found) == 1
    assert seen.text.count("<script>alert(1)") >= 10 and str(7**7) not in seen.text
    assert not any(name.startswith("on") for _, attributes in seen.found for name in attributes)


@pytest.mark.parametrize("odd", [3, None, [1], "x", {"all": 3}, {"all": {"mAP": []}}, {"all": {"mAP": {"mAP": 1}}}])
def test_odd_values_make_no_traceback(tmp_path, odd):
    folder = write_run(tmp_path / "mine")
    (run,) = read_runs([folder])
    run.results = [("last epoch", odd)] if isinstance(odd, dict) else []
    keys = ("loss", "visible", "infrared", "cross_accuracy", "evaluation", "seconds", "stage", "lr")
    run.records.append({"epoch": 9} | dict.fromkeys(keys, odd))
    assert "Run mine" in page_of(tmp_path / "page.html", run)
