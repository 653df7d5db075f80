import pytest

from salcr.data import DATASETS
from salcr.engine.config import PRESETS, Config, flattened, load_config, similar_keys
from salcr.engine.settings_table import as_text, settings_table


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_every_setting_has_its_value_and_a_meaning(preset):
    table = settings_table(preset=preset)
    assert {row.key: row.value for row in table} == flattened(load_config(preset=preset).model_dump(mode="json"))
    assert {row.key: row.default for row in table} == flattened(Config().model_dump(mode="json"))
    for row in table:
        assert row.kind and row.meaning.endswith(".") and not any(mark in row.meaning for mark in ("``", ":data:", "`"))


def test_kinds_are_in_words():
    kinds = {row.key: row.kind for row in settings_table()}
    assert kinds["schedule.lr"] == "number, above 0"
    assert kinds["data.height"] == "whole number, at least 1, at most 4096"
    assert kinds["model.weights"] == "path or bundled or null"
    assert kinds["evaluation.refinements"] == "list of: one of cmfp, k_reciprocal, cmrr, aim"
    assert kinds["dagi.enabled"] == "true or false"


def test_the_data_sets_are_named():
    (row,) = settings_table(["data.name"])
    assert all(name in row.meaning for name in DATASETS)


def test_keys_and_sections_are_picked_out():
    assert [row.key for row in settings_table(["gpcr.k", "dagi.sinkhorn"])] == [
        *("dagi.sinkhorn.lam", "dagi.sinkhorn.tol", "dagi.sinkhorn.max_iter", "gpcr.k"),
    ]
    with pytest.raises(ValueError, match=r"unknown key 'gpcr\.weigth', did you mean gpcr\.weight\?"):
        settings_table(["gpcr", "gpcr.weigth"])
    with pytest.raises(ValueError, match=r"unknown key 'dagi\.sink'"):
        settings_table(["dagi.sink"])


def test_a_presets_value_stands_beside_the_default():
    assert as_text(settings_table(["clustering.eps"], preset="regdb")).splitlines() == [
        "clustering.eps = 0.3 (default 0.6)  [number, above 0]",
        "    Largest Jaccard distance of neighbours in a cluster; smaller, stricter.",
    ]


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("schedule.lrr", ["schedule.lr"]),
        ("lr", ["schedule.lr"]),
        ("clusterng", ["clustering"]),
        ("enabled", ["dagi.enabled", "fgsal.enabled", "gpcr.enabled"]),
        ("train.seed", ["seed"]),
        ("", []),
        ("colour", []),
        ("x" * 10**6, []),
    ],
)
def test_a_wrong_key_is_answered_with_similar_ones(key, near):
    assert similar_keys(key) == near
