"""What is known of a data set stands in its own file, and one can be added from outside."""

import ast
import re
from dataclasses import FrozenInstanceError, replace
from functools import partial
from pathlib import Path

import pytest

import salcr
from salcr import ops
from salcr.data import DATASETS, Dataset, DatasetSpec, check_dataset, load_dataset, load_sysu, register
from salcr.data.synthetic import write_dataset
from tests.data.trees import make_folder, make_llcm, make_regdb, make_sysu

PACKAGE = Path(salcr.__file__).parent


@pytest.fixture
def no_trace():
    """What a test registers is gone after it."""
    before = dict(DATASETS)
    yield
    DATASETS.clear()
    DATASETS.update(before)


def load_mine(root):
    found = load_sysu(root)
    return Dataset("mine", found.root, found.train_visible, found.train_infrared, found.test, found.protocols[:1])


MINE = DatasetSpec(name="mine", description="my cameras", load=load_mine, rule=DATASETS["sysu"].rule)


def test_every_one_is_known_by_its_name():
    for name, spec in DATASETS.items():
        assert spec.name == name and spec.description and "\n" not in spec.description
        assert spec.rule in ops.ranking.PROTOCOLS
        assert (PACKAGE / f"engine/presets/{spec.preset}.yaml").is_file()
    with pytest.raises(FrozenInstanceError):
        DATASETS["sysu"].rule = "other"


@pytest.mark.parametrize("name", DATASETS)
def test_the_name_is_written_in_no_other_file(name):
    def strings(path):
        return {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}

    rooms = [path for room in ("data", "engine", "cli") for path in (PACKAGE / room).rglob("*.py")]
    assert [path.name for path in rooms if name in strings(path)] == [f"{name}.py"]


@pytest.mark.parametrize("function", [load_dataset, check_dataset])
def test_unknown_names(tmp_path, function):
    with pytest.raises(ValueError, match=r"name must be one of sysu, regdb, llcm, .*got 'market'"):
        function("market", tmp_path)


@pytest.mark.parametrize("name", DATASETS)
def test_no_folder(tmp_path, monkeypatch, name):
    """A relative one says where it was looked for: a run's config.yaml has it as it was given."""
    monkeypatch.chdir(tmp_path)
    message = f"no data set folder {tmp_path / 'nowhere'}"
    assert check_dataset(name, "nowhere") == [message]
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        load_dataset(name, "nowhere")


@pytest.mark.parametrize("name", DATASETS)
def test_a_rendered_copy_is_whole_and_loads(tmp_path, name):
    spec = DATASETS[name]
    write_dataset(name, tmp_path / "set", ids=6, test_ids=3, images_per_camera=1, height=16, width=8)
    assert check_dataset(name, tmp_path / "set", published_counts=False) == []
    for trial in range(1, spec.splits + 1):
        assert all((tmp_path / "set" / file).is_file() for file in spec.split_files(trial))
    dataset = load_dataset(name, tmp_path / "set", trial=spec.splits)
    assert dataset.name == name and dataset.protocols
    assert {protocol.rule for protocol in dataset.protocols} == {spec.rule}
    assert len(dataset.train_visible) and len(dataset.train_infrared)
    modalities = {number: modality == "infrared" for number, modality in spec.layout.cameras.items()}
    assert modalities.keys() == spec.layout.places.keys() and set(modalities.values()) == {False, True}


def test_one_of_your_own(tmp_path, no_trace):
    register(MINE)
    root = make_sysu(tmp_path)
    assert load_dataset("mine", root).name == "mine"
    assert [protocol.name for protocol in load_dataset("mine", root, trial=7).protocols] == ["all-single"]
    assert check_dataset("mine", root) == []
    (root / "cam1/0003/0001.jpg").write_bytes(b"")
    (problem,) = check_dataset("mine", root)
    assert "cam1/0003/0001.jpg does not decode" in problem
    with pytest.raises(ValueError, match="layout must be one of"):  # it has none
        write_dataset("mine", tmp_path / "copy", ids=3, images_per_camera=1)


def test_one_with_splits_and_files(tmp_path, no_trace):
    def load_split(root, split):
        return replace(load_mine(root), name=f"split {split}")

    counts = {"train identities": 3, "visible test images": 15}
    DATASETS["mine"] = replace(MINE, load=load_split, splits=2, list_files=("list_{trial}.txt",), counts=counts)
    root = make_sysu(tmp_path)
    (root / "list_2.txt").write_text("")
    assert load_dataset("mine", root).name == "split 1" and load_dataset("mine", root, trial=2).name == "split 2"
    assert check_dataset("mine", root, published_counts=False) == []
    assert check_dataset("mine", root) == [
        f"no split file {root / 'list_1.txt'}",
        "split 2: 16 visible test images, published are 15",
    ]


@pytest.mark.parametrize("name", ["", "sysu"])
def test_a_name_that_cannot_be_registered(no_trace, name):
    before = list(DATASETS)
    with pytest.raises(ValueError, match=rf"a name of its own, got '{name}'; taken are sysu, regdb"):
        register(replace(MINE, name=name))
    assert list(DATASETS) == before


def strangers(root):
    for identity, other in ((20, 5), (4, 21)):
        (root / f"gallery/visible/{identity:04d}").rename(root / f"gallery/visible/{other}")


def other_labels(root):
    thermal = root / "idx/test_thermal_1.txt"
    thermal.write_text("".join(f"{line}7\n" for line in thermal.read_text().splitlines()))


@pytest.mark.parametrize(
    ("name", "make", "change", "protocol"),
    [
        ("sysu", partial(make_sysu, cams=(2, 3)), None, "all-single"),
        ("sysu", partial(make_sysu, cams=(2, 3, 4)), None, "indoor-single"),
        ("regdb", make_regdb, other_labels, "visible-to-thermal"),
        ("llcm", partial(make_llcm, vis_cams=(1,), nir_cams=(1,)), None, "visible-to-infrared"),
        ("folder", make_folder, strangers, "infrared-to-visible"),
    ],
)
def test_a_protocol_without_a_match_is_an_error_before_training(tmp_path, name, make, change, protocol):
    root = make(tmp_path)
    if change is not None:
        change(root)
    message = f"{root} cannot be evaluated: no query of {protocol} has a match in the gallery"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_dataset(name, root)
    assert message in check_dataset(name, root, published_counts=False)[-1]
