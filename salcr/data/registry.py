"""Data sets by name."""

from pathlib import Path

from salcr.data.folder import FOLDER
from salcr.data.llcm import LLCM
from salcr.data.records import Dataset, Records, Trial
from salcr.data.regdb import REGDB
from salcr.data.spec import DatasetSpec
from salcr.data.sysu import SYSU

DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in (SYSU, REGDB, LLCM, FOLDER)}
"""Every data set that configurations, loaders, checks and commands know."""


def register(spec: DatasetSpec) -> None:
    """Add a data set of your own; from then on ``data.name`` and all functions of this package know its name.

    A loader and a ranking rule are all it takes::

        def load_mine(root):
            ...
            return salcr.data.Dataset("mine", Path(root), visible, infrared, test, protocols)


        salcr.data.register(
            salcr.data.DatasetSpec(name="mine", description="my cameras", load=load_mine, rule="regdb")
        )
        salcr.engine.train(salcr.engine.load_config(data={"name": "mine", "root": "images"}), "runs/mine")

    A registration lasts as long as the process: whoever reads a checkpoint of such a run registers first.
    ``DATASETS[name] = spec`` does the same and replaces what had the name.

    Raises:
        ValueError: the name is empty or taken.
    """
    if not spec.name or spec.name in DATASETS:
        raise ValueError(f"a data set needs a name of its own, got {spec.name!r}; taken are {', '.join(DATASETS)}")
    DATASETS[spec.name] = spec


def dataset_named(name: str) -> DatasetSpec:
    """The specification of a data set.

    Raises:
        ValueError: an unknown name.
    """
    if name not in DATASETS:
        raise ValueError(f"name must be one of {', '.join(DATASETS)}, got {name!r}")
    return DATASETS[name]


def load_dataset(name: str, root: str | Path, *, trial: int = 1) -> Dataset:
    """Load a data set by its name.

    Args:
        name: one of :data:`salcr.data.DATASETS`.
        root: its folder.
        trial: which split, from 1, of a data set that has several; the others do not read it.

    Returns:
        The data set; its loader, such as :func:`salcr.data.load_folder`, says what is in it.

    Raises:
        FileNotFoundError: a folder or split file is missing.
        ValueError: an unknown name, a split that is empty or malformed, or a protocol by which no query has a match.
    """
    spec = dataset_named(name)
    dataset = spec.load(root, trial) if spec.splits > 1 else spec.load(root)
    for protocol in dataset.protocols:
        if not all(_has_match(dataset.test, one, protocol.rule) for one in protocol.trials):
            raise ValueError(
                f"{dataset.root} cannot be evaluated: no query of {protocol.name} has a match in the gallery"
            )
    return dataset


def _has_match(test: Records, trial: Trial, rule: str) -> bool:
    from salcr.ops.ranking import is_ranked  # torch, which a look at the table of data sets need not wait for

    ids, cams = test.ids[trial.gallery], test.cams[trial.gallery]
    queries = zip(test.ids[trial.query], test.cams[trial.query], strict=True)
    return any((is_ranked(query, cam, ids, cams, rule) & (ids == query)).any() for query, cam in queries)
