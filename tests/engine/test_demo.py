import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from salcr.data.augment import make_views
from salcr.engine import demo as engine
from salcr.engine.demo import demo, summary_table
from salcr.engine.pretrain import draw_views, pretrain
from salcr.models import TwoStreamResNet
from tests.engine.tree import with_channels
from tests.surroundings import SURROUNDINGS

SMALL = (
    *("data.height=48", "data.width=24", "clustering.eps=0.6", "clustering.min_samples=2", "clustering.k1=4"),
    *("schedule.iterations=1", "schedule.identities=2", "schedule.stage_one_epochs=1", "schedule.stage_two_epochs=1"),
)


@with_channels(32)  # of the bundled weights
def test_the_demo_tells_what_it_starts_from(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "PEOPLE", dict(ids=7, test_ids=2, images_per_camera=2))
    summary = demo(tmp_path, seed=1, overrides=SMALL)
    assert list(summary) == ["untrained", "stage_one", "final"]
    assert summary["untrained"].keys() == summary["final"].keys()
    assert summary["untrained"] != summary["stage_one"]
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert demo(tmp_path, seed=1, overrides=SMALL, resume=True) == summary
    titles = [line.split()[1] for line in summary_table(summary).splitlines()[1:4]]
    assert titles == ["untrained", "stage", "SALCR"]


def test_a_demo_of_another_seed_shows_other_people(tmp_path, monkeypatch):
    """Also in the folder of one that was killed before its first checkpoint."""
    monkeypatch.setattr(engine, "PEOPLE", dict(ids=7, test_ids=2, images_per_camera=2))
    trained_on = []
    monkeypatch.setattr(engine, "train", lambda config, out, resume: trained_on.append(config.data.root) or {})
    monkeypatch.setattr(engine, "evaluate_start", lambda config: {})
    for overrides in (), (), ("seed=1",):
        demo(tmp_path, overrides=overrides)
    first, again, other = ([path.read_bytes() for path in sorted(Path(root).rglob("*.jpg"))] for root in trained_on)
    assert first == again and len(first) == len(other) and not set(first) & set(other)


def test_at_least_48_people_are_held_out():
    assert engine.PEOPLE["test_ids"] >= 48 < engine.PEOPLE["ids"]


def test_pretraining_gives_both_stems_the_same_weights(tmp_path):
    accuracy = pretrain(tmp_path / "weights.pt", classes=4, images_per_class=4, epochs=1, batch=8, height=32, width=16)
    assert 0 <= accuracy <= 1
    network = TwoStreamResNet("tiny")
    network.load_imagenet(torch.load(tmp_path / "weights.pt", weights_only=True))
    pairs = zip(network.visible_stem.state_dict().values(), network.infrared_stem.state_dict().values(), strict=True)
    assert all(torch.equal(visible, infrared) for visible, infrared in pairs)


def test_pretraining_is_the_same_within_all_surroundings_and_leaves_the_generator_alone(tmp_path):
    options, before = dict(classes=4, images_per_class=4, epochs=1, batch=8, height=32, width=16), torch.get_rng_state()
    pretrain(tmp_path / "without.pt", **options)
    with ExitStack() as stack:
        for surroundings in SURROUNDINGS.values():
            stack.enter_context(surroundings())
        stack.enter_context(torch.inference_mode())
        pretrain(tmp_path / "within.pt", **options)
    assert torch.equal(torch.get_rng_state(), before)
    found = [torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("within", "without")]
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("hue", [(0.9, 0.2, 0.2), (0.2, 0.3, 0.8)])
def test_jitter_keeps_the_order_of_channels_or_is_grey(hue, rng):
    """Ordinary jitter and greyscale: what was red stays red, and nothing stands for an infrared image but grey."""
    x = (255 * torch.tensor(hue) * torch.linspace(0.7, 1, 4).view(4, 1)).byte().expand(400, 4, 4, 3)
    draws = draw_views(400, 0, torch.Generator().manual_seed(int(rng.integers(1 << 30))))
    mean, deviation = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    y = make_views(x, draws) * deviation + mean
    grey = ((y - y[:, :1]).abs() < 1e-5).flatten(1).all(1)
    assert 0.1 < grey.float().mean() < 0.3
    assert (y.mean((2, 3))[~grey].argmax(1) == torch.tensor(hue).argmax()).all()
