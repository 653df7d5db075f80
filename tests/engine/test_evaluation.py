import copy
import dataclasses
import itertools
import math
import os
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from salcr import ops
from salcr.data import Dataset, Protocol, Records, Trial
from salcr.engine import best, checkpoint, load_config
from salcr.engine.config import dump_config
from salcr.engine.evaluation import (
    evaluate,
    evaluate_checkpoint,
    evaluate_protocol,
    extract_checkpoint,
    retrieval_features,
)
from salcr.engine.images import open_dataset, open_images
from salcr.engine.network import load_network
from salcr.engine.sections import Evaluation
from salcr.models import SALCRNetwork
from salcr.models.features import extract_features, parameter_dtype, pick_device
from tests.engine.tree import CAMERAS, HEIGHT, IMAGES, TEST, WIDTH, tiny
from tests.models.files import write
from tests.models.published import published_state, wrapped

CPU = torch.device("cpu")
FIGURES = {"rank-1", "rank-5", "rank-10", "rank-20", "mAP", "mINP"}
NONE = Evaluation(refinements=())


def make_dataset(tmp_path, ids, cams, trials, rule):
    infrared = np.isin(cams, (3, 6))
    paths = tuple(f"{n}.png" for n in range(len(ids)))
    test = Records(tmp_path, paths, np.array(ids, np.int64), np.array(cams, np.int64), infrared)
    nothing = test.subset(np.zeros(len(ids), bool))
    trials = tuple(Trial(*(np.array(rows, np.int64) for rows in trial)) for trial in trials)
    return Dataset("sysu", tmp_path, nothing, nothing, test, (Protocol("all", rule, trials),))


def on_a_circle(*degrees):
    angle = torch.tensor(degrees, dtype=torch.float32) * (math.pi / 180)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def figures_by_hand(distances, query, gallery, ids, cams, rule):
    """The protocol in plain loops, from docs/method.md, "Ranking metrics"; in per cent."""
    found = []
    for row, q in zip(distances.tolist(), query, strict=True):
        ranking = [g for _, _, g in sorted(zip(row, itertools.count(), gallery, strict=False))]
        if rule == "sysu" and cams[q] == 3:
            ranking = [g for g in ranking if cams[g] != 2]
        if rule == "llcm":
            ranking = [g for g in ranking if not (cams[g] == cams[q] and ids[g] == ids[q])]
        ranks = [n for n, g in enumerate(ranking, 1) if ids[g] == ids[q]]
        if not ranks:
            continue
        first = ranks[0]
        if rule != "regdb":
            first = len({int(ids[g]) for g in ranking[:first]})
        found.append((first, sum(n / rank for n, rank in enumerate(ranks, 1)) / len(ranks), len(ranks) / ranks[-1]))
    figures = {f"rank-{r}": 100 * sum(f[0] <= r for f in found) / len(found) for r in (1, 5, 10, 20)}
    return figures | {name: 100 * sum(f[i] for f in found) / len(found) for i, name in ((1, "mAP"), (2, "mINP"))}


def mean_by_hand(distance, dataset):
    """Each trial by hand on ``distance(query rows, gallery rows)``, then their mean."""
    (protocol,) = dataset.protocols
    each = []
    for trial in protocol.trials:
        query, gallery = trial.query.tolist(), trial.gallery.tolist()
        rows = distance(query, gallery)
        each.append(figures_by_hand(rows, query, gallery, dataset.test.ids, dataset.test.cams, protocol.rule))
    return {key: sum(figures[key] for figures in each) / len(each) for key in each[0]}


def random_case(tmp_path, rng, rule):
    ids, cams = rng.integers(1, 7, 60), rng.integers(1, 7, 60)
    infrared = np.flatnonzero(np.isin(cams, (3, 6)))
    visible = np.flatnonzero(~np.isin(cams, (3, 6)))
    trials = [(infrared, rng.choice(visible, 12, replace=False)) for _ in range(3)]
    if rule == "llcm":  # the same cameras on both sides
        cams = rng.integers(1, 4, 60)
        dataset = make_dataset(tmp_path, ids, cams, trials, rule)
        dataset.test.infrared[infrared] = True
        dataset.test.infrared[visible] = False
    else:
        dataset = make_dataset(tmp_path, ids, cams, trials, rule)
    return dataset, F.normalize(torch.from_numpy(rng.normal(size=(60, 8)).astype(np.float32)))


def test_figures_of_a_case_on_paper(tmp_path):
    # One query at 0°. Gallery by angle: 7 (10°), 5 (20°), 5 (30°), 7 (40°), 9 (50°), with 5 the query's identity.
    dataset = make_dataset(tmp_path, [5, 7, 5, 5, 7, 9], [6, 1, 1, 2, 2, 4], [([0], [5, 4, 3, 2, 1])], "sysu")
    features = on_a_circle(0, 10, 20, 30, 40, 50)
    assert evaluate_protocol(features, dataset, dataset.protocols[0], NONE) == {
        "rank-1": 0.0,
        "rank-5": 100.0,
        "rank-10": 100.0,
        "rank-20": 100.0,
        "mAP": round(100 * (1 / 2 + 2 / 3) / 2, 2),
        "mINP": round(100 * 2 / 3, 2),
    }


def test_a_camera_3_query_does_not_see_camera_2(tmp_path):
    ids, cams = [5, 7, 5], [3, 2, 1]
    dataset = make_dataset(tmp_path, ids, cams, [([0], [1, 2])], "sysu")
    features = on_a_circle(0, 10, 20)
    assert evaluate_protocol(features, dataset, dataset.protocols[0], NONE)["rank-1"] == 100
    other = make_dataset(tmp_path, ids, [6, 2, 1], [([0], [1, 2])], "sysu")
    assert evaluate_protocol(features, other, other.protocols[0], NONE)["rank-1"] == 0


def test_figures_are_averaged_over_trials(tmp_path):
    trials = [([0], [1, 2]), ([0], [3, 2]), ([0], [1, 2])]
    dataset = make_dataset(tmp_path, [5, 5, 7, 5], [6, 1, 1, 1], trials, "sysu")
    figures = evaluate_protocol(on_a_circle(0, 10, 20, 30), dataset, dataset.protocols[0], NONE)
    assert figures["rank-1"] == round(100 * 2 / 3, 2)
    assert figures["mAP"] == figures["mINP"] == round(100 * (1 + 1 / 2 + 1) / 3, 2)
    assert figures["rank-5"] == 100


@pytest.mark.parametrize("rule", ["sysu", "regdb", "llcm"])
def test_a_protocol_against_loops(tmp_path, rng, rule):
    dataset, features = random_case(tmp_path, rng, rule)
    expected = mean_by_hand(lambda q, g: 2 - 2 * features[q] @ features[g].T, dataset)
    figures = evaluate_protocol(features, dataset, dataset.protocols[0], NONE)
    assert figures.keys() == FIGURES
    assert figures == pytest.approx(expected, abs=0.0051)
    scaled = features * torch.from_numpy(rng.uniform(0.5, 2, (60, 1)).astype(np.float32))
    assert evaluate_protocol(scaled, dataset, dataset.protocols[0], NONE) == figures  # only directions count


@pytest.mark.parametrize("infrared_query", [True, False])
def test_refinements_stand_beside_the_raw_figures(tmp_path, rng, infrared_query):
    dataset, features = random_case(tmp_path, rng, "sysu")
    settings = Evaluation(refinements=("cmfp", "k_reciprocal", "cmrr", "aim"), cmfp_k=3, cmrr_k=4, aim_k1=3, aim_k2=2)
    if not infrared_query:
        trials = [(trial.gallery, trial.query) for trial in dataset.protocols[0].trials]
        dataset = make_dataset(tmp_path, dataset.test.ids, dataset.test.cams, trials, "regdb")

    def propagated(q, g):
        visible, infrared = (g, q) if infrared_query else (q, g)
        visible, infrared = ops.propagate_features(features[visible], features[infrared], k=3)
        return 2 - 2 * (infrared @ visible.T if infrared_query else visible @ infrared.T)

    methods = {
        "cmfp": propagated,
        "k_reciprocal": lambda q, g: ops.rerank_k_reciprocal(features[q], features[g]),
        "cmrr": lambda q, g: ops.rerank_cross_modality(features[q], features[g], k=4),
        "aim": lambda q, g: ops.affinity_inference(features[q], features[g], k1=3, k2=2),
    }
    figures = evaluate_protocol(features, dataset, dataset.protocols[0], settings)
    raw = evaluate_protocol(features, dataset, dataset.protocols[0], NONE)
    assert {key: figures[key] for key in FIGURES} == raw
    assert figures.keys() == FIGURES | methods.keys()
    for name, method in methods.items():
        assert figures[name] == pytest.approx(mean_by_hand(method, dataset), abs=0.0051), name
    assert len({tuple(figures[name].values()) for name in methods} | {tuple(raw.values())}) > 3  # they do something


def test_small_galleries_have_all_ranks_and_cmfp(tmp_path):
    dataset = make_dataset(tmp_path, [5, 5, 7], [6, 1, 1], [([0], [2, 1])], "sysu")
    figures = evaluate_protocol(on_a_circle(0, 10, 5), dataset, dataset.protocols[0], Evaluation())
    assert (figures["rank-1"], figures["rank-20"], figures["mAP"]) == (0, 100, 50)
    assert figures["cmfp"].keys() == FIGURES


@pytest.fixture
def network(seed):
    torch.manual_seed(seed)
    built = SALCRNetwork("tiny").eval()
    for norm in (built.norm, built.parts.norm):  # not the identity
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
    return built


@pytest.mark.parametrize("infrared", [False, True])
def test_features_are_the_networks_without_augmentation(network, rng, infrared):
    images = rng.integers(0, 256, (7, HEIGHT, WIDTH, 3), dtype=np.uint8)
    network.train()
    one_batch = extract_features(network, images, infrared=infrared, batch=7, device=CPU)
    assert network.training
    network.eval()
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    by_hand = torch.from_numpy((images / 255 - mean) / deviation).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = network.embed(by_hand, infrared=infrared)
    torch.testing.assert_close(tuple(one_batch), tuple(expected))
    assert one_batch.f.shape == (7, network.width) and one_batch.joint.shape == (7, 4 * network.width)
    assert not one_batch.f.requires_grad
    torch.testing.assert_close(one_batch.f.norm(dim=1), torch.ones(7))
    batches = extract_features(network, images, infrared=infrared, batch=3, device=CPU)
    assert not network.training
    torch.testing.assert_close(tuple(batches), tuple(one_batch))


def test_mirrored_features_are_the_mean_of_both_images(network, rng):
    images = rng.integers(0, 256, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    arguments = dict(infrared=False, batch=4, device=CPU)
    one, other = (extract_features(network, x, **arguments) for x in (images, mirrored))
    both = extract_features(network, images, mirror=True, **arguments)
    for got, x, y in zip(both, one, other, strict=True):
        torch.testing.assert_close(got, F.normalize((x + y) / 2))
        assert (got - x).abs().max() > 1e-4
    again = extract_features(network, mirrored, mirror=True, **arguments)
    torch.testing.assert_close(tuple(again), tuple(both))


@pytest.mark.parametrize("mirror", [False, True])
def test_bfloat16_features_are_near_and_unit(network, rng, mirror):
    images = rng.integers(0, 256, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)
    arguments = dict(infrared=True, batch=4, device=CPU, mirror=mirror)
    exact = extract_features(network, images, **arguments)
    rounded = extract_features(network, images, precision="bfloat16", **arguments)
    for x, y in zip(exact, rounded, strict=True):
        assert y.dtype == torch.float32
        torch.testing.assert_close(y.norm(dim=1), torch.ones(5))
        assert 0 < (x - y).norm(dim=1).max() < 0.1


@pytest.fixture(scope="module")
def saved(tree, tmp_path_factory):
    """A run folder's checkpoint of an untrained network: its path, its configuration, and the network."""
    torch.manual_seed(5)
    built = SALCRNetwork("tiny").eval()
    config = load_config(overrides=tiny(tree))
    run = tmp_path_factory.mktemp("saved")
    (run / "config.yaml").write_text(dump_config(config))
    (run / "checkpoints").mkdir()
    path = run / "checkpoints/epoch_0003.pt"
    checkpoint.save_atomically(
        {"epoch": 3, "config": config.model_dump(mode="json"), "network": built.state_dict()}, path
    )
    return path, config, built


def test_features_of_the_test_images_are_in_their_order(saved):
    path, config, built = saved
    network, loaded = load_network(path, CPU)
    assert loaded == config and not network.training
    dataset = open_dataset(config)
    features = retrieval_features(network, dataset, config, CPU)
    test = dataset.test
    assert features.shape == (len(TEST) * len(CAMERAS) * IMAGES, built.width)
    for row in (0, 1, 9, len(test) // 2, len(test) - 1):
        images = open_images(test.subset([row]), config)
        alone = extract_features(built, images, infrared=bool(test.infrared[row]), batch=1, device=CPU, mirror=True)
        torch.testing.assert_close(features[row], alone.f[0])


def test_test_images_may_be_of_one_modality(saved):
    _, config, built = saved
    dataset = open_dataset(config)
    visible = dataclasses.replace(dataset, test=dataset.test.subset(~dataset.test.infrared))
    found, of_both = (retrieval_features(built, x, config, CPU) for x in (visible, dataset))
    assert torch.equal(found, of_both[torch.from_numpy(~dataset.test.infrared)])


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_features_of_the_test_images_are_of_the_precision_of_the_run(saved, precision):
    _, config, built = saved
    schedule = config.schedule.model_copy(update={"precision": precision})
    network, dataset = copy.deepcopy(built).to(parameter_dtype(precision)), open_dataset(config)
    found = retrieval_features(network, dataset, config.model_copy(update={"schedule": schedule}), CPU)
    rows = np.flatnonzero(~dataset.test.infrared)
    options = dict(infrared=False, batch=config.evaluation.batch, device=CPU, precision=precision, mirror=True)
    expected = extract_features(network, open_images(dataset.test.subset(rows), config), **options).f
    assert torch.equal(found[torch.from_numpy(rows)], expected)


def test_evaluate_covers_all_protocols(saved):
    path, config, built = saved
    dataset = open_dataset(config)
    figures = evaluate(built, dataset, config, CPU)
    assert list(figures) == ["all-single", "all-multi", "indoor-single", "indoor-multi"]
    features = retrieval_features(built, dataset, config, CPU)
    for protocol in dataset.protocols:
        assert figures[protocol.name] == evaluate_protocol(features, dataset, protocol, config.evaluation)
        assert figures[protocol.name].keys() == FIGURES | {"cmfp"}
    assert evaluate_checkpoint(path) == figures


def test_a_checkpoint_chosen_on_test_data_says_so(saved, tree, tmp_path, caplog):
    path, mark = saved[0], {"metric": "mAP", "protocol": "all-single", "value": 50.0, "epoch": 3}
    chosen = best.save_best(tmp_path, mark, checkpoint.load(path))
    overrides = [f"data.root={tree}", "evaluation.refinements=[]"]
    assert evaluate_checkpoint(chosen, overrides) == evaluate_checkpoint(path, overrides) | {best.MARK: mark}
    assert [record.message for record in caplog.records] == [f"{chosen} was {best.describe(mark)}"]


def test_a_checkpoint_is_evaluated_on_the_configured_backend(saved, monkeypatch, tmp_path):
    """The figures of all backends are the same."""
    asked = []
    monkeypatch.setattr(
        "salcr.engine.evaluation.configured_backend", lambda of: asked.append(of.backend) or nullcontext()
    )
    evaluate_checkpoint(saved[0], ["evaluation.refinements=[]", "backend=reference"])
    extract_checkpoint(saved[0], tmp_path / "features.npz", ["backend=eager"])
    assert asked == ["reference", "eager"]


def test_overrides_of_a_checkpoint(saved, monkeypatch, tmp_path):
    path, config, _ = saved
    figures = evaluate_checkpoint(path, ["evaluation.refinements=[aim]", "evaluation.batch=7"])
    assert figures["all-single"].keys() == FIGURES | {"aim"}
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        evaluate_checkpoint(path, [f"data.root={tmp_path / 'elsewhere'}"])
    with pytest.raises(ValueError, match=r"data\.root is not set"):
        evaluate_checkpoint(path, ["data.root=null"])
    with pytest.raises(ValueError, match=r"unknown key 'data\.rot'"):
        evaluate_checkpoint(path, ["data.rot=x"])
    asked = []
    monkeypatch.setattr("salcr.engine.evaluation.pick_device", lambda name: asked.append(name) or CPU)
    evaluate_checkpoint(path, ["evaluation.refinements=[]"])
    evaluate_checkpoint(path, ["evaluation.refinements=[]", "device=auto"])
    assert asked == [config.device, "auto"]


def test_extracted_features_are_written_with_their_columns(saved, tmp_path):
    path, config, built = saved
    folder = tmp_path / "new/folder"
    extract_checkpoint(path, folder / "features.npz")
    dataset = open_dataset(config)
    with np.load(folder / "features.npz", allow_pickle=False) as written:
        assert set(written.files) == {"features", "ids", "cams", "infrared", "paths"}
        expected = retrieval_features(built, dataset, config, CPU).numpy()
        np.testing.assert_allclose(written["features"], expected, rtol=0, atol=1e-6)
        for name in ("ids", "cams", "infrared"):
            np.testing.assert_array_equal(written[name], getattr(dataset.test, name))
        assert tuple(written["paths"].tolist()) == dataset.test.paths
    assert [file.name for file in folder.iterdir()] == ["features.npz"]
    extract_checkpoint(path, folder / "features.npz", ["schedule.precision=float64"])
    with np.load(folder / "features.npz") as written:
        assert written["features"].dtype == np.float64
    with pytest.raises(OSError, match=r"features\.npz"):
        extract_checkpoint(path, folder / "features.npz/more.npz")


def test_what_is_no_training_checkpoint_is_named(saved, tmp_path):
    path, _, built = saved
    whole = checkpoint.load(path)
    config, network = whole["config"], whole["network"]
    name = "backbone.stages.0.0.conv1.weight"
    cases = {
        "weights": (built.state_dict(), "is no checkpoint of this project, .* either, but 'backbone"),
        "settings": ({"network": network}, "has no configuration"),
        "config": ({"config": config}, "has no network"),
        "other": (whole | {"network": SALCRNetwork("tiny", parts=2).state_dict()}, "does not fit this network"),
        "unknown": (whole | {"config": config | {"colour": 1}}, "unknown key 'colour'"),
        "text": (whole | {"config": "data: x"}, "the configuration must be settings by name, got a str"),
        "number": (whole | {"config": config | {1: 2}}, "Keys should be strings"),
        "tensor": (whole | {"config": config | {"seed": torch.ones(9)}}, "seed: .*, got a Tensor"),
        "digits": (whole | {"config": config | {"seed": 2**70}}, "seed: .*more than 64 bits"),
        "large": (whole | {"config": config | {"model": {"parts": 10**9}}}, "model.parts: .*less than or equal to 256"),
        "list": (whole | {"network": [1]}, "must be tensors of real numbers by name"),
        "strings": (whole | {"network": network | {name: "x"}}, "must be tensors of real numbers by name"),
        "numbered": (whole | {"network": network | {3: torch.ones(3)}}, "must be tensors of real numbers by name"),
        "complex": (whole | {"network": network | {name: network[name] * 1j}}, "must be tensors of real numbers"),
        "sparse": (whole | {"network": network | {name: network[name].to_sparse()}}, "must be tensors of real numbers"),
        "shape": (whole | {"network": network | {name: torch.ones(3)}}, "does not fit this network: .*size mismatch"),
        "fewer": (whole | {"network": {"norm.weight": network["norm.weight"]}}, "does not fit this network: .*Missing"),
    }
    for name, (content, message) in cases.items():
        checkpoint.save_atomically(dict(content), tmp_path / f"{name}.pt")
        with pytest.raises(ValueError, match=message) as caught:
            load_network(tmp_path / f"{name}.pt", CPU)
        assert "\n" not in str(caught.value) and f"{name}.pt" in str(caught.value)


@pytest.mark.parametrize("key", ["file", "preset", "overrides"])
def test_a_checkpoint_chooses_no_source_of_settings(saved, tmp_path, key):
    secret = tmp_path / "secret"
    secret.write_text("password\n")
    whole = checkpoint.load(saved[0])
    value = {"file": str(secret), "preset": "demo", "overrides": ["seed=5"]}[key]
    checkpoint.save_atomically(whole | {"config": whole["config"] | {key: value}}, tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match=rf"theirs\.pt: unknown key '{key}'") as caught:
        evaluate_checkpoint(tmp_path / "theirs.pt")
    assert "password" not in str(caught.value)


def test_a_checkpoint_chooses_no_place(saved, tree, tmp_path):
    """Its paths are left out; those of its run folder's own configuration and of the command line count."""
    path, config, _ = saved
    whole = checkpoint.load(path)
    chosen, ours = tmp_path / "chosen", tmp_path / "ours"
    chosen.mkdir()
    stale = chosen / "old.tmp"
    stale.touch()
    os.utime(stale, (0, 0))
    data = whole["config"]["data"] | {"cache": str(chosen), "root": str(tree)}
    model = whole["config"]["model"] | {"weights": str(stale), "checkpoint": str(stale)}
    theirs = tmp_path / "theirs.pt"
    checkpoint.save_atomically(whole | {"config": whole["config"] | {"data": data, "model": model}}, theirs)
    with pytest.raises(ValueError, match=r"data\.root is not set"):
        evaluate_checkpoint(theirs)
    plain = "evaluation.refinements=[]"
    assert evaluate_checkpoint(theirs, [f"data.root={tree}", f"data.cache={ours}", plain])
    assert list(ours.iterdir()) and list(chosen.iterdir()) == [stale]
    loaded = load_network(theirs, CPU)[1]
    assert (loaded.data.root, loaded.data.cache, loaded.model.weights, loaded.model.checkpoint) == (None,) * 4
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(theirs, run / "checkpoints")
    (run / "config.yaml").write_text(f"data: {{name: sysu, root: {tree}}}\nseed: 3\n")
    loaded = load_network(run / "checkpoints/theirs.pt", CPU)[1]
    assert (loaded.data.root, loaded.data.cache, loaded.seed) == (tree, None, config.seed)


@pytest.mark.parametrize(
    ("override", "before"),
    [
        ("model.parts=2", "model.parts=3"),
        ("model.architecture=resnet18", "model.architecture=tiny"),
        ("model.weights=resnet50.pth", "model.weights=None"),
        ("clustering.eps=0.5", "clustering.eps=0.6"),
        ("seed=3", "seed=0"),
        ("schedule.images=3", "schedule.images=4"),
    ],
)
def test_settings_that_cannot_act_on_a_checkpoint(saved, override, before):
    with pytest.raises(ValueError, match=rf"{override} cannot act on .*epoch_0003\.pt: .*{before}"):
        evaluate_checkpoint(saved[0], [override])


def test_a_setting_that_says_what_the_checkpoint_says(saved):
    assert evaluate_checkpoint(saved[0], ["model.parts=3", "evaluation.refinements=[]"])


@pytest.fixture
def theirs(saved, tmp_path):
    """The same weights as the authors' code saves them."""
    return write(wrapped(published_state(saved[2])), tmp_path / "theirs.pth.tar")


def test_a_checkpoint_of_the_authors_code_is_evaluated_as_ours(saved, theirs, tree, tmp_path):
    path = saved[0]
    settings = [
        f"data.root={tree}",
        f"data.height={HEIGHT}",
        f"data.width={WIDTH}",
        "evaluation.cmfp_k=4",
        "device=cpu",
    ]
    for preset in (None, "sysu"):
        assert evaluate_checkpoint(theirs, settings, preset=preset) == evaluate_checkpoint(path)
    extract_checkpoint(theirs, tmp_path / "theirs.npz", settings, layout="authors")
    extract_checkpoint(path, tmp_path / "ours.npz")
    with np.load(tmp_path / "theirs.npz") as one, np.load(tmp_path / "ours.npz") as other:
        for name in other.files:
            assert np.array_equal(one[name], other[name]), name


def test_settings_of_a_checkpoint_of_the_authors_code(saved, theirs, tree):
    _, config = load_network(theirs, CPU)
    assert config == load_config(model={"architecture": "tiny"}) and config.data.root is None
    _, config = load_network(theirs, CPU, preset="regdb")
    assert config == load_config(preset="regdb", model={"architecture": "tiny"})
    _, config = load_network(theirs, CPU, preset="demo")
    assert config.model.weights is None
    with pytest.raises(ValueError, match=r"data\.root is not set"):
        evaluate_checkpoint(theirs)
    with pytest.raises(ValueError, match=r"model\.parts=4 cannot act on .*theirs\.pth\.tar: .*model\.parts=3"):
        evaluate_checkpoint(theirs, [f"data.root={tree}", "model.parts=4"])
    with pytest.raises(ValueError, match=r"epoch_0003\.pt has its own settings: preset is for files of the authors'"):
        evaluate_checkpoint(saved[0], preset="sysu")


def test_devices():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="device 'gpu' is no device"):
        pick_device("gpu")
    with pytest.raises(ValueError, match="device 'cuda:99': this machine has"):
        pick_device("cuda:99")
