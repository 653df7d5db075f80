"""Evaluation by the data sets' protocols, features extracted once, refinements beside the raw numbers."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from salcr import distributed, ops
from salcr.data import Dataset
from salcr.data.records import Protocol, Trial
from salcr.engine import best
from salcr.engine.config import Config, differences, load_config
from salcr.engine.images import open_dataset, open_images
from salcr.engine.network import configured_backend, load_network
from salcr.engine.sections import Evaluation
from salcr.files import make_parent, write_atomically
from salcr.models import SALCRNetwork
from salcr.models.features import extract_features, for_features, parameter_dtype, pick_device
from salcr.surroundings import own_settings

logger = logging.getLogger("salcr")

RANKS = (1, 5, 10, 20)
ACTING = ("data.", "evaluation.", "device", "backend", "schedule.precision")  # settings that a trained network obeys


@own_settings()
def evaluate(network: SALCRNetwork, dataset: Dataset, config: Config, device: torch.device) -> dict[str, Any]:
    """Retrieval figures of ``network`` on the test images of ``dataset``.

    Returns:
        By protocol: ``rank-1``, ``rank-5``, ``rank-10``, ``rank-20``, ``mAP``, ``mINP`` in per cent, averaged over the
        protocol's trials, and the same figures under the name of each refinement in ``config.evaluation.refinements``.
        Empty where the data set has no protocol.
    """
    if not dataset.protocols:
        return {}
    features = retrieval_features(network, dataset, config, device)
    return {
        protocol.name: evaluate_protocol(features, dataset, protocol, config.evaluation)
        for protocol in dataset.protocols
    }


def evaluate_checkpoint(
    path: Path, overrides: Sequence[str] = (), *, layout: str = "auto", preset: str | None = None
) -> dict[str, Any]:
    """:func:`evaluate` of a checkpoint on the data set of its configuration, changed by ``overrides``.

    Where the checkpoint was chosen on test data, the result says so under ``chosen_on_test_data``, beside the
    protocols, and so does the log.

    Args:
        path: of the checkpoint.
        overrides: as ``key.sub=value``.
        layout, preset: see :func:`salcr.engine.network.load_network`.

    Raises:
        OSError, ValueError: no such checkpoint, an override that is wrong or cannot change what the network is, or a
            data set without a query and a gallery.
    """
    network, dataset, config, device = _open_checkpoint(path, overrides, layout, preset)
    mark = best.mark_of(path)
    with configured_backend(config):
        figures = evaluate(network, dataset, config, device)
    if mark is None:
        return figures
    logger.warning("%s was %s", path, best.describe(mark))
    return figures | {best.MARK: mark}


def extract_checkpoint(
    path: Path, out: Path, overrides: Sequence[str] = (), *, layout: str = "auto", preset: str | None = None
) -> None:
    """Write ``features [N, D]``, ``ids``, ``cams``, ``infrared`` and ``paths`` of the test images to ``out`` (.npz).

    Arguments and errors as :func:`evaluate_checkpoint`.
    """
    distributed.on_first(lambda: make_parent(out))
    network, dataset, config, device = _open_checkpoint(path, overrides, layout, preset)
    test = dataset.test
    columns = dict(ids=test.ids, cams=test.cams, infrared=test.infrared, paths=np.array(test.paths))
    with configured_backend(config):
        features = retrieval_features(network, dataset, config, device).cpu().numpy()

    def write() -> None:
        content = io.BytesIO()
        np.savez(content, features=features, **columns)
        write_atomically(out, content.getvalue())

    distributed.on_first(write)


def retrieval_features(network: SALCRNetwork, dataset: Dataset, config: Config, device: torch.device) -> torch.Tensor:
    """Unit features ``[N, D]`` of ``dataset.test``, averaged with those of the mirror images, on ``device``."""
    records = dataset.test
    features = torch.empty(len(records), network.width, dtype=network.norm.weight.dtype, device=device)
    with for_features(network):
        for infrared in (False, True):
            rows = np.flatnonzero(records.infrared == infrared)
            if len(rows) == 0:
                continue
            features[torch.from_numpy(rows).to(device)] = extract_features(
                network,
                open_images(records.subset(rows), config),
                infrared=infrared,
                batch=config.evaluation.batch,
                device=device,
                precision=config.schedule.precision,
                mirror=True,
            ).f
    return features


def evaluate_protocol(
    features: torch.Tensor, dataset: Dataset, protocol: Protocol, settings: Evaluation
) -> dict[str, Any]:
    """Figures of one protocol from the features ``[N, D]`` of ``dataset.test``; several processes share its trials."""
    methods = {"raw": cosine_distances} | {name: REFINEMENTS[name] for name in settings.refinements}

    def figures(trial: Trial) -> dict[str, dict[str, float]]:
        query, gallery = (features[torch.from_numpy(rows).to(features.device)] for rows in (trial.query, trial.gallery))
        return {
            name: _rank(method(query, gallery, settings), dataset, trial, protocol.rule)
            for name, method in methods.items()
        }

    trials = distributed.spread(figures, protocol.trials)
    means = {
        name: {key: round(float(np.mean([trial[name][key] for trial in trials])), 2) for key in trials[0][name]}
        for name in methods
    }
    return means.pop("raw") | means


def cosine_distances(query: torch.Tensor, gallery: torch.Tensor, settings: Evaluation) -> torch.Tensor:
    """Squared Euclidean distance of unit features, ``[Q, G]``."""
    return 2 - 2 * F.normalize(query) @ F.normalize(gallery).mT


def _open_checkpoint(
    path: Path, overrides: Sequence[str], layout: str, preset: str | None
) -> tuple[SALCRNetwork, Dataset, Config, torch.device]:
    network, trained = load_network(path, torch.device("cpu"), layout=layout, preset=preset)
    config = load_config(overrides=overrides, **trained.model_dump(mode="json"))
    for key, (before, after) in differences(trained, config).items():
        if not key.startswith(ACTING):
            raise ValueError(f"{key}={after} cannot act on {path}: a trained network is evaluated, with {key}={before}")
    device, dataset = pick_device(config.device), open_dataset(config)
    if not dataset.protocols:
        raise ValueError(
            f"nothing to evaluate: {dataset.root} has no query and gallery (`salcr index` makes features of any images)"
        )
    return network.to(device, parameter_dtype(config.schedule.precision)), dataset, config, device


def _propagated(query, gallery, settings):
    """CMFP on query and gallery together, whichever is the visible one: transductive."""
    return cosine_distances(*ops.propagate_features(query, gallery, k=settings.cmfp_k), settings)


def _reciprocal(query, gallery, settings):
    return ops.rerank_k_reciprocal(query, gallery)


def _cross_modality(query, gallery, settings):
    return ops.rerank_cross_modality(query, gallery, k=settings.cmrr_k)


def _affinity(query, gallery, settings):
    return ops.affinity_inference(query, gallery, k1=settings.aim_k1, k2=settings.aim_k2)


def _rank(distances: torch.Tensor, dataset: Dataset, trial: Trial, rule: str) -> dict[str, float]:
    test, query, gallery = dataset.test, trial.query, trial.gallery
    columns = test.ids[query], test.ids[gallery], test.cams[query], test.cams[gallery]
    result = ops.evaluate_ranking(distances, *columns, protocol=rule, max_rank=max(RANKS))
    figures = {f"rank-{rank}": 100 * float(result.cmc[rank - 1]) for rank in RANKS}
    return figures | {"mAP": 100 * float(result.mAP), "mINP": 100 * float(result.mINP)}


REFINEMENTS = {"cmfp": _propagated, "k_reciprocal": _reciprocal, "cmrr": _cross_modality, "aim": _affinity}
