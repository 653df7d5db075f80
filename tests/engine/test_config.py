import io
import os
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from salcr.data import DATASETS
from salcr.engine import PRESETS, Config, load_config, single_stage
from salcr.engine import config as config_module
from salcr.engine.config import differences, dump_config, flattened


def changed(one: Config, other: Config):
    return {key: value for key, (_, value) in differences(one, other).items()}


def test_sysu_has_the_papers_parameters():
    config = flattened(load_config(preset="sysu").model_dump())
    spec = {
        "data.name": "sysu",
        "data.height": 288,
        "data.width": 144,
        "model.architecture": "resnet50",
        "model.parts": 3,
        "model.authors_pg1": False,
        "clustering.k1": 30,
        "clustering.k2": 6,
        "clustering.eps": 0.6,
        "clustering.min_samples": 4,
        "schedule.stage_one_epochs": 40,
        "schedule.stage_two_epochs": 40,
        "schedule.iterations": 300,
        "schedule.identities": 12,
        "schedule.images": 12,
        "schedule.lr": 3.5e-4,
        "schedule.weight_decay": 5e-4,
        "schedule.milestones": (20, 60),
        "schedule.gamma": 0.1,
        "schedule.precision": "auto",
        "augment.pad": 10,
        "augment.erase": 0.5,
        "augment.jitter": 0.5,
        "objectives.precision": "auto",
        "memory.momentum": 0.1,
        "memory.temperature": 0.05,
        "dagi.enabled": True,
        "dagi.association": "ot",
        "dagi.k": 30,
        "dagi.sinkhorn.lam": 5.0,
        "dagi.sinkhorn.tol": 0.1,
        "dagi.sinkhorn.max_iter": 500,
        "fgsal.enabled": True,
        "gpcr.enabled": True,
        "gpcr.k": 30,
        "gpcr.weight": 0.5,
        "evaluation.cmfp_k": 30,
        "evaluation.cmrr_k": 15,
        "evaluation.aim_k1": 4,
        "evaluation.aim_k2": 1,
    }
    assert {key: config[key] for key in spec} == spec
    assert "cmfp" in config["evaluation.refinements"]


def test_the_other_presets_differ_where_the_paper_does():
    sysu = load_config(preset="sysu")
    assert changed(Config(), sysu) == {}
    assert changed(sysu, load_config(preset="llcm")) == {"data.name": "llcm"}
    assert changed(sysu, load_config(preset="regdb")) == {
        "data.name": "regdb",
        "clustering.eps": 0.3,
        "schedule.iterations": 100,
        "dagi.k": 8,
        "evaluation.cmfp_k": 8,
        "evaluation.cmrr_k": 8,
        "evaluation.aim_k1": 8,
        "evaluation.aim_k2": 2,
    }


def test_every_data_set_has_its_preset():
    files = Path(config_module.__file__).parent.glob("presets/*.yaml")
    assert sorted(PRESETS) == sorted(file.stem for file in files)
    for name, spec in DATASETS.items():
        assert load_config(preset=spec.preset).data.name == name


def test_a_data_set_of_your_own_can_be_configured(monkeypatch):
    monkeypatch.setitem(DATASETS, "mine", replace(DATASETS["sysu"], name="mine"))
    config = load_config(overrides=["data.name=mine"])
    assert config.data.name == "mine" and load_config(**yaml.safe_load(dump_config(config))) == config


def test_the_demo_preset_is_small_and_trains_all_of_it():
    demo = load_config(preset="demo")
    assert demo.model.architecture == "tiny"
    assert demo.schedule.stage_one_epochs > 0 and demo.schedule.stage_two_epochs > 0
    assert demo.dagi.enabled and demo.fgsal.enabled and demo.gpcr.enabled


@pytest.mark.parametrize(
    ("key", "largest", "beyond"),
    [
        ("seed", 2**63 - 1, 2**63),
        ("data.height", 4096, 4097),
        ("model.parts", 256, 257),
        ("augment.erase", 1, 1.01),
        ("augment.jitter", 0.5, 0.51),
        ("memory.momentum", 1, 1.01),
    ],
)
def test_a_bound_is_itself_allowed(key, largest, beyond):
    large = "data.height=4096"
    assert changed(Config(), load_config(overrides=[large, f"{key}={largest}"])).get(key, largest) == largest
    with pytest.raises(ValueError, match=rf"^{key}: .*less than .*, got {beyond}$"):
        load_config(overrides=[large, f"{key}={beyond}"])


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_come_back_from_yaml(preset, tmp_path):
    config = load_config(preset=preset, overrides=["data.root=some/where"])
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert load_config(file=file) == config
    assert isinstance(yaml.safe_load(file.read_text())["data"]["root"], str)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_read_whatever_the_locales_encoding(preset, monkeypatch):
    wanted = load_config(preset=preset)
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *_: encoding or "ascii")
    assert load_config(preset=preset) == wanted


def test_a_path_that_is_not_utf_8_comes_back_from_yaml(tmp_path):
    root, file = Path(os.fsdecode(b"some/wh\xffre")), tmp_path / "config.yaml"
    config = load_config(overrides=[f"data.root={root}"])
    assert config.data.root == root
    file.write_text(dump_config(config))
    assert load_config(file=file) == config


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    lr=st.floats(1e-12, 1e3),
    milestones=st.lists(st.integers(0, 100), max_size=4),
    weights=st.sampled_from([None, "bundled", Path("bundled"), Path("a b/c: d.pth"), Path("~"), Path("null")]),
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8),
)
def test_any_configuration_comes_back_from_yaml(lr, milestones, weights, name):
    config = load_config(
        schedule={"lr": lr, "milestones": milestones}, model={"weights": weights}, data={"root": f"x{name}"}
    )
    again = load_config(**yaml.safe_load(dump_config(config)))
    if weights != Path("bundled"):  # the name of the file that comes with the package; write ./bundled for one's own
        assert again == config
    assert again.schedule.lr == lr and again.schedule.milestones == tuple(milestones)


def test_bundled_weights_are_not_a_path():
    assert load_config(overrides=["model.weights=bundled"]).model.weights == "bundled"
    assert load_config(overrides=["model.weights=a/resnet50.pth"]).model.weights == Path("a/resnet50.pth")


def test_the_last_one_wins_and_the_rest_of_a_section_stays(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("clustering: {eps: 0.4, k1: 20}\nschedule: {iterations: 7}\n")
    config = load_config(
        preset="regdb",
        file=file,
        overrides=["clustering.eps=0.5", "schedule.lr=1e-4", "clustering.eps=0.7"],
        schedule={"images": 5},
    )
    assert (config.clustering.eps, config.clustering.k1, config.clustering.k2) == (0.7, 20, 6)
    assert (config.schedule.iterations, config.schedule.images, config.schedule.lr) == (7, 5, 1e-4)
    assert config.dagi.k == 8  # the preset's
    config = load_config(overrides=["evaluation.refinements=[aim, cmrr]", "data.root=null", "fgsal.enabled=no"])
    assert config.evaluation.refinements == ("aim", "cmrr")
    assert config.data.root is None and config.fgsal.enabled is False


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("foo=1", "unknown key 'foo'"),
        ("schedule.epochs=1", "unknown key 'schedule.epochs'"),
        ("schedule.lr=fast", "schedule.lr: .*'fast'"),
        ("schedule.lr=0", "schedule.lr: .*got 0"),
        ("schedule.iterations=2.5", "schedule.iterations: .*2.5"),
        ("schedule.images=0", "schedule.images: .*got 0"),
        ("schedule.precision=float16", "schedule.precision: .*'float16'"),
        ("objectives.precision=float64", "objectives.precision: .*'float64'"),
        ("seed=-1", "seed: .*got -1"),
        ("model.architecture=resnet34", "model.architecture: .*'resnet34'"),
        ("dagi.association=3", "dagi.association: .*got 3"),
        ("dagi=3", "dagi: .*got 3"),
        ("data.name=market", "data.name: must be one of sysu, regdb, llcm, .*got 'market'"),
        ("data.name=3", "data.name: .*got 3"),
        ("seed.x=1", "seed: "),
        ("evaluation.refinements=[cmfp, magic]", "evaluation.refinements.1: .*'magic'"),
        ("augment.erase=1.5", "augment.erase: .*1.5"),
        ("schedule.milestones=[-1]", "schedule.milestones.0: .*-1"),
        ("seed", r"reads key.sub=value, got 'seed'"),
        ("schedule.milestones=[1", r"'schedule.milestones=\[1' is not YAML"),
        ("=3", "unknown key ''"),
        ("schedule.lr=.inf", "schedule.lr: .*got inf"),
        ("seed=9223372036854775808", "seed: .*got 9223372036854775808"),
        ("data.height=100000", "data.height: .*got 100000"),
        ("model.parts=[[[[[[1]]]]]]", r"model.parts: .*got \[\[\[...\]\]\]"),
    ],
)
def test_a_bad_override_is_named_in_one_line(override, named):
    with pytest.raises(ValueError, match=named) as caught:
        load_config(overrides=[override])
    assert "\n" not in str(caught.value)


def test_all_wrong_keys_are_named_at_once():
    with pytest.raises(ValueError, match=r"seed: .*unknown key 'schedule\.lrr'") as caught:
        load_config(overrides=["seed=x", "schedule.lrr=1"])
    assert "\n" not in str(caught.value)


def test_parts_have_a_cell_each():
    few = ["data.height=33", "data.width=16"]
    assert load_config(overrides=[*few, "model.parts=3"]).model.parts == 3
    with pytest.raises(ValueError, match=r"model\.parts is 4, and images of 33x16 have 3x1 cells"):
        load_config(overrides=[*few, "model.parts=4"])


def test_missing_files_and_presets_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"preset must be one of demo, sysu, regdb, llcm, .*got 'market'"):
        load_config(preset="market")
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        load_config(file=tmp_path / "absent.yaml")


def test_a_wrong_value_is_named_with_the_file_it_stands_in(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("schedule: {lr: fast}\ncolour: {a: 1}\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: schedule\.lr: .*'fast'.*mine\.yaml: unknown key 'colour'"):
        load_config(file=file)
    with pytest.raises(ValueError, match=r"schedule\.lr: .*'slow'") as caught:
        load_config(file=file, overrides=["schedule.lr=slow", "colour=2"])
    assert "mine.yaml" not in str(caught.value)


def test_a_flood_of_wrong_keys_is_cut():
    with pytest.raises(ValueError, match="and 990 more") as caught:
        load_config(**{f"key{n}{'x' * 1000}": 1 for n in range(1000)})
    assert len(str(caught.value)) < 2000


def test_differences_name_key_and_both_values():
    one = load_config(preset="regdb")
    assert differences(one, one) == {}
    other = load_config(preset="regdb", overrides=["dagi.k=9", "schedule.milestones=[1]", "data.root=x"])
    expected = {"dagi.k": (8, 9), "schedule.milestones": ([20, 60], [1]), "data.root": (None, "x")}
    assert differences(one, other) == expected


def test_stage_two_needs_a_module():
    off = ["dagi.enabled=false", "fgsal.enabled=false", "gpcr.enabled=false"]
    with pytest.raises(ValueError, match="stage two needs one of"):
        load_config(overrides=off)
    assert load_config(overrides=[*off, "schedule.stage_two_epochs=0"]).schedule.stage_one_epochs == 40
    assert load_config(overrides=off[:2]).gpcr.enabled


def test_the_best_epoch_is_one_that_is_evaluated():
    with pytest.raises(ValueError, match=r"checkpoints\.keep\.best needs evaluation\.every"):
        load_config(overrides=["checkpoints.keep.best=mAP"])
    chosen = load_config(overrides=["checkpoints.keep.best=rank-1", "evaluation.every=5"])
    assert chosen.checkpoints.keep.best == "rank-1"
    with pytest.raises(ValueError, match=r"checkpoints\.keep\.best: .*'rank-1', 'mAP' or 'mINP'"):
        load_config(overrides=["checkpoints.keep.best=loss", "evaluation.every=5"])


def test_a_configuration_cannot_be_changed():
    config = load_config(preset="sysu")
    with pytest.raises(ValueError, match="frozen"):
        config.schedule.lr = 1.0


def test_one_stage_keeps_its_learning_rates():
    whole = load_config(overrides=["schedule.milestones=[20, 40, 60, 90]"])

    def rates(config):
        schedule = config.schedule
        epochs = range(schedule.epochs)
        return [sum(epoch >= milestone for milestone in schedule.milestones) for epoch in epochs]

    one, two = single_stage(whole, "one"), single_stage(whole, "two")
    assert rates(one) + rates(two) == rates(whole)
    assert (one.schedule.stage_one_epochs, one.schedule.stage_two_epochs) == (40, 0)
    assert (two.schedule.stage_one_epochs, two.schedule.stage_two_epochs) == (0, 40)
    assert single_stage(load_config(preset="sysu"), "two").schedule.milestones == (0, 20)
    assert load_config(**yaml.safe_load(dump_config(two))) == two
    with pytest.raises(ValueError, match="one or two, got 'three'"):
        single_stage(whole, "three")


def test_the_backend_is_one_that_use_backend_knows():
    from salcr.ops._dispatch import BACKENDS

    assert get_args(Config.model_fields["backend"].annotation) == ("auto", *BACKENDS)
    with pytest.raises(ValueError, match="backend: "):
        load_config(overrides=["backend=cpu"])


@pytest.mark.parametrize("products", ["tf32", "bfloat16"])
def test_float64_is_not_multiplied_in_less(products):
    with pytest.raises(ValueError, match=f"objectives.precision is {products}, and schedule.precision float64"):
        load_config(overrides=["schedule.precision=float64", f"objectives.precision={products}"])
