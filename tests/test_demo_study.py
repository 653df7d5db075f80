"""The demo's study: what its page says of any record, and that a branched run is the run it stands for."""

import pytest
from PIL import Image, ImageColor

from benchmarks import demo_page, demo_picture, demo_study
from salcr.engine import load_config, train
from tests.engine.tree import tiny, with_channels

SEEDS, ROWS, CONTROLS = (0, 1, 2), ("untrained", "stage one", "longer", "SALCR"), ("untrained", "stage one", "longer")


def run(mAP, arithmetic="AVX2, 1 thread"):
    return {
        "figures": {"all-single": {"mAP": mAP, "rank-1": mAP - 1, "cmfp": {"mAP": mAP + 5}}},
        "cross_accuracy": [{"visible_to_infrared": 0.41}, {"visible_to_infrared": 0.8}],
        "baselines": {"histogram": mAP / 10, "chance": 2.0},
        "arithmetic": arithmetic,
        "machine": {"cpu": "a CPU"},
        "versions": {"python": "3.11", "torch": "2.13"},
    }


def record(**rows):
    """Runs of the seeds 0, 1, …; None leaves one out."""
    names = {"longer": "longer", "stage_one": "stage one", "untrained": "untrained", "SALCR": "SALCR"}
    return {
        f"demo: {names[row]}, seed {seed}": run(value)
        for row, values in rows.items()
        for seed, value in enumerate(values)
        if value is not None
    }


def page(record):
    return demo_page.tables(record, "demo", SEEDS, ROWS, CONTROLS)


def test_the_headline_compares_with_the_best_control():
    text = page(record(untrained=(30, 31, 32), stage_one=(60, 20, 20), longer=(40, 45, 44), SALCR=(50, 52, 57)))
    assert "best control (*longer*): +10.0 mAP" in text
    assert "over 3 seeds, standard error 1.7** (seed by seed: +10.0, +7.0, +13.0)" in text
    assert "| longer | 40.0 | 45.0 | 44.0 | 43.0 ± 2.6 | 42.0 ± 2.6 | 48.0 ± 2.6 |" in text
    assert "| visible to infrared | 41 → 80 | 41 → 80 | 41 → 80 |" in text
    assert "histogram 3.0-3.2; chance 2.0" in text
    assert "Not recorded yet" not in text


def test_a_page_of_a_part_names_what_is_missing():
    text = page(record(untrained=(30, 31), stage_one=(33, 34), longer=(40, None), SALCR=(50, 52)))
    assert "best control (*longer*): +10.0 mAP**, one seed." in text
    assert "| longer | 40.0 | – | – | 40.0 | 39.0 | 45.0 |" in text
    assert "Not recorded yet: untrained (seed 2); stage one (seed 2); longer (seeds 1, 2); SALCR (seed 2)." in text
    assert "cannot be compared with the best control yet" in page(record(longer=(40,), SALCR=(None, 52)))
    assert "No run of it is recorded yet." in page({})


def test_what_a_module_adds_is_told_for_the_seeds_that_have_both_rows():
    found = record(untrained=(30, 31), stage_one=(33, 34), longer=(40, 44), SALCR=(50, 52))
    found |= {f"demo: {row}, seed {seed}": run(mAP) for row, seed, mAP in (("DAGI", 0, 46), ("DAGI + FGSAL", 0, 47))}
    text = demo_page.tables(found, "demo", SEEDS, [*ROWS, "DAGI", "DAGI + FGSAL"], CONTROLS)
    assert "- **DAGI, over *longer*: +6.0 mAP**, one seed." in text
    assert "- **FGSAL, over *DAGI*: +1.0 mAP**, one seed." in text
    assert "- **GPCR, over *DAGI + FGSAL*: +3.0 mAP**, one seed." in text
    assert "What each adds" not in page(record(SALCR=(50,)))


def test_seeds_without_salcr_do_not_choose_the_control():
    found = record(untrained=(30, 31, 99), stage_one=(33, 34, 35), longer=(40, 40, 41), SALCR=(50, 52, None))
    assert "best control (*longer*): +11.0 mAP on average over 2 seeds" in page(found)


def test_rounding_is_told_apart_from_the_study():
    found = record(SALCR=(50,)) | {"demo: SALCR, seed 0 (AVX512, 2 threads)": run(47.5, "AVX512, 2 threads")}
    text = page(found)
    assert "- SALCR, seed 0: AVX2, 1 thread: 50.0; AVX512, 2 threads: 47.5. Largest difference 2.5." in text
    assert "| SALCR | 50.0 | – | – | 50.0 |" in text


def test_names_and_settings_of_the_runs(tmp_path):
    study = demo_study.Study(tmp_path, "demo", 3, "AVX2, 1 thread")
    assert study.name("SALCR") == "demo: SALCR, seed 3 (AVX2, 1 thread)"
    epochs = {row: load_config(preset="demo", overrides=study.settings(row)).schedule for row in demo_study.ROWS}
    longer = epochs["stage one, as many steps"]
    assert (longer.stage_one_epochs, longer.stage_two_epochs) == (epochs["SALCR"].epochs, 0)
    assert epochs["stage one"].stage_one_epochs == epochs["SALCR"].stage_one_epochs
    assert len({study.digest(row) for row in demo_study.ROWS if row != "untrained"}) == len(demo_study.ROWS) - 1
    for size in demo_study.sizes():
        schedule = load_config(preset="demo", overrides=demo_study.Study(tmp_path, size, 0).settings("SALCR")).schedule
        assert schedule.milestones[0] >= schedule.stage_one_epochs  # stage one is the same, however long it goes on


@with_channels(8)
def test_a_branched_run_is_the_run_in_one_go(tree, tmp_path):
    short = ("schedule.stage_one_epochs=1", "schedule.iterations=2")
    both = load_config(overrides=tiny(tree, *short, "schedule.stage_two_epochs=1", "gpcr.enabled=false"))
    train(load_config(overrides=tiny(tree, *short, "schedule.stage_two_epochs=0")), tmp_path / "one")
    demo_study.branch(tmp_path / "one", tmp_path / "branched", both)
    assert train(both, tmp_path / "branched", resume=True) == train(both, tmp_path / "whole")


def test_the_picture_frames_right_and_wrong(tmp_path):
    Image.new("RGB", (20, 40), "white").save(tmp_path / "x.png")
    found = [(tmp_path / "x.png", right) for right in (True, False)]
    sheet = demo_picture.draw([tmp_path / "x.png"], {"before": [found], "after": [found[::-1]]})
    colours = [sheet.getpixel((x, demo_picture.HEAD)) for x in range(sheet.width)]
    order = [c for c, before in zip(colours[1:], colours, strict=False) if c != before and c != (255, 255, 255)]
    right, wrong = (ImageColor.getrgb(colour) for colour in (demo_picture.RIGHT, demo_picture.WRONG))
    assert order == [right, wrong, wrong, right]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    from tests.engine.tree import write_tree

    return write_tree(tmp_path_factory.mktemp("tree") / "sysu")
