"""The evaluation of a model at SYSU-MM01's sizes, as the engine runs it and as published code does."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.case import Case
from salcr.data._layout import draw_trials
from salcr.data.records import Dataset, Protocol, Records
from salcr.engine.evaluation import RANKS, evaluate_protocol
from salcr.engine.sections import Evaluation
from salcr.reference.published import ranking


def _evaluation(device: str, quick: bool) -> tuple[torch.Tensor, Dataset]:
    """Features of the test images, and both protocols' trials: all of four cameras, indoor of two.

    Of 384 pairs of an identity and a camera 301 have visible images, 112 of them indoors.
    """
    identities, infrared, shots, width = (12, 96, 2, 32) if quick else (96, 3803, 22, 2048)
    seen = [(i, cam) for i in range(identities) for cam in (1, 2, 4, 5) if not _unseen(i, cam)]
    pairs = np.repeat(np.array(seen), shots, axis=0)
    queries = np.arange(infrared)
    ids = np.concatenate([pairs[:, 0], queries % identities])
    cams = np.concatenate([pairs[:, 1], np.where(queries % 7 < 4, 6, 3)])
    is_infrared = np.arange(len(ids)) >= len(pairs)
    test = Records(Path(), tuple(map(str, range(len(ids)))), ids, cams, is_infrared)
    protocols = [
        Protocol(f"{search}-single", "sysu", draw_trials(test, cameras, infrared=False))
        for search, cameras in (("all", (1, 2, 4, 5)), ("indoor", (1, 2)))
    ]
    generator = torch.Generator().manual_seed(0)
    people = torch.randn(identities, width, generator=generator)[torch.from_numpy(ids)]
    features = F.normalize(people + 3 * torch.randn(people.shape, generator=generator), dim=1)
    nothing = test.subset([])
    return features.to(device), Dataset("sysu", Path(), nothing, nothing, test, tuple(protocols))


def _unseen(identity: int, camera: int) -> bool:
    return identity >= 56 if camera in (1, 2) else camera == 5 and identity >= 93


def _published_evaluation(features: torch.Tensor, dataset: Dataset) -> dict[str, dict[str, float]]:
    test, figures = dataset.test, {}
    for protocol in dataset.protocols:
        trials = [(trial.query, trial.gallery) for trial in protocol.trials]
        columns = features.cpu().numpy(), test.ids, test.cams
        cmc, *means = ranking.evaluate_trials(*columns, trials, protocol=protocol.rule)
        found = {f"rank-{rank}": cmc[rank - 1] for rank in RANKS} | dict(zip(("mAP", "mINP"), means, strict=True))
        figures[protocol.name] = {name: round(100 * float(value), 2) for name, value in found.items()}
    return figures


def _engine_evaluation(features: torch.Tensor, dataset: Dataset) -> dict[str, dict[str, float]]:
    settings = Evaluation(refinements=())
    return {p.name: evaluate_protocol(features, dataset, p, settings) for p in dataset.protocols}


def _same_figures(outputs: dict, expected: dict) -> None:
    """To the hundredth of a per cent that is reported."""
    assert outputs.keys() == expected.keys()
    for name in expected:
        for figure, value in expected[name].items():
            assert abs(outputs[name][figure] - value) < 0.011, f"{name} {figure}: {outputs[name][figure]} not {value}"


CASES = (
    Case(
        "evaluation",
        "3,803 queries against 301 (all) and 112 (indoor) gallery images, ten trials each, from features of 2048",
        _evaluation,
        {"published": _published_evaluation, "auto": _engine_evaluation},
        _same_figures,
        phase=True,
    ),
)
