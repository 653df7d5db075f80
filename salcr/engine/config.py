"""The configuration of a run: typed, checked, from a preset, a YAML file and command-line overrides."""

import reprlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from salcr.data import DATASETS
from salcr.data.sysu import SYSU
from salcr.defaults import HEIGHT, MOMENTUM, NEIGHBORS, TEMPERATURE, WIDTH
from salcr.engine.sections import Checkpoints, Evaluation, Logging, Section
from salcr.engine.yaml_settings import parse_yaml, read_settings

PATHS = ("data.root", "data.cache", "model.weights", "model.checkpoint")
SHOWN = 10  # wrong keys in a message
STRIDE = 16  # of every architecture's last map
LONGEST_KEY = 80  # that a similar one is looked for
PRESETS = ("demo", *(spec.preset for spec in DATASETS.values() if spec.preset))
Backend = Literal["auto", "reference", "eager", "cpp", "numba", "triton", "cuda", "faiss"]
Side = Annotated[int, Field(ge=1, le=4096)]


class Data(Section):
    """Where the images are and the size they are trained at."""

    name: str = SYSU.name
    """One of :data:`salcr.data.DATASETS`: sysu, regdb, llcm, folder, or your own."""
    root: Path | None = None
    """The data set's folder."""
    trial: PositiveInt = 1
    """Which split, from 1, of a data set that has several."""
    height: Side = HEIGHT
    """Of the images that the network sees, in pixels."""
    width: Side = WIDTH
    """Of the images that the network sees, in pixels."""
    cache: Path | None = None
    """Folder of the decoded images; by default ``.salcr-cache`` below the data set's root, or one of the user's."""
    resident: Literal["auto", "device", "pinned"] = "auto"
    """Whether decoded images are in the memory of the GPU that trains, or in the host's with pinned copies of batches;
    ``auto`` is the first where they fit and 24 GiB stay free."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DATASETS:
            raise ValueError(f"must be one of {', '.join(DATASETS)}")
        return name


class Model(Section):
    """The network and the weights it starts from."""

    architecture: Literal["resnet50", "resnet18", "tiny"] = "resnet50"
    """``tiny`` is the demo's."""
    parts: int = Field(3, ge=1, le=256)
    """P, horizontal stripes with features of their own."""
    weights: Path | Literal["bundled"] | None = None
    """A classifier's weights (see :func:`salcr.models.weights.read_weights`), or the small file of the package."""
    checkpoint: Path | None = None
    """A checkpoint whose network to start from, for stage two alone, of this project or of the authors' code
    (docs/checkpoints.md)."""
    checkpoint_layout: Literal["auto", "salcr", "authors"] = "auto"
    """Whose names the checkpoint has; ``auto`` tells by the file."""
    authors_pg1: bool = False
    """Take the channel-augmented view's first guided part features from the second, as the published code does."""
    compile: Literal["auto"] | bool = "auto"
    """Train the network as ``torch.compile`` makes it, which rounds otherwise; ``auto`` does so on a single GPU."""


class Clustering(Section):
    """Pseudo labels of an epoch (docs/method.md, "Pseudo labels")."""

    k1: PositiveInt = NEIGHBORS
    """Neighbours of the reciprocal sets."""
    k2: PositiveInt = 6
    """Neighbours over which encodings are averaged; 1 skips it."""
    eps: PositiveFloat = 0.6
    """Largest Jaccard distance of neighbours in a cluster; smaller, stricter."""
    min_samples: PositiveInt = 4
    """Images within ``eps``, itself counted, that make a cluster's core."""


class Schedule(Section):
    """Epochs, batches and the optimiser (docs/method.md, "Schedule")."""

    stage_one_epochs: NonNegativeInt = 40
    """Epochs of each modality alone."""
    stage_two_epochs: NonNegativeInt = 40
    """Epochs of both modalities together."""
    iterations: PositiveInt = 300
    """Batches an epoch."""
    identities: PositiveInt = 12
    """Clusters in a batch of each modality."""
    images: PositiveInt = 12
    """Images of each cluster in a batch."""
    lr: PositiveFloat = 3.5e-4
    """Learning rate of the first epochs."""
    weight_decay: float = Field(5e-4, ge=0)
    """Of Adam."""
    milestones: tuple[NonNegativeInt, ...] = (20, 60)
    """Epochs, counted over both stages, from which the learning rate is multiplied by ``gamma`` once more."""
    gamma: PositiveFloat = 0.1
    """What each milestone multiplies the learning rate by."""
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Of the network's arithmetic; ``auto`` is bfloat16 on a GPU that has it, else float32. With bfloat16 (autocast)
    features, losses and memories are float32 (for the products between them see ``objectives.precision``), with float64
    everything but the pixels is float64: slow, and made for comparing runs, see docs/distributed.md."""
    graph: Literal["auto"] | bool = "auto"
    """Replay a step as a CUDA graph, which a GPU starts without waiting for the host; ``auto`` does so on a single GPU
    where it is faster in each stage's first epoch. Results are the same. It has not run on a GPU yet."""

    @property
    def epochs(self) -> int:
        """Of both stages."""
        return self.stage_one_epochs + self.stage_two_epochs


class Augment(Section):
    """See :class:`salcr.data.augment.Augmentation`."""

    pad: NonNegativeInt = 10
    """Black pixels added on each side before the random crop."""
    erase: float = Field(0.5, ge=0, le=1)
    """Probability of random erasing."""
    jitter: float = Field(0.5, ge=0, le=0.5)
    """Strength of brightness, contrast, saturation and hue jitter."""


class Memory(Section):
    """Cluster and instance memories (docs/method.md, "Stage one")."""

    momentum: float = Field(MOMENTUM, ge=0, le=1)
    """Share of a memory row that an update keeps."""
    temperature: PositiveFloat = TEMPERATURE
    """Divides every cosine in a contrast."""


class Objectives(Section):
    """What the losses of both stages share."""

    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    """Of the products of float32 features with memories (docs/numerics.md, "Precision of the products"). float32 is
    exact, tf32 a single product of that on a GPU; bfloat16 rounds rows and memories, and leaves sums, losses, gradients
    and the memories themselves in float32; ``auto`` is bfloat16 where the network is, and else float32. Neighbour sets
    are float32's with any."""


class Sinkhorn(Section):
    """Options of :func:`salcr.ops.sinkhorn`, for the association ``ot``."""

    lam: PositiveFloat = 5.0
    """λ, the sharpness of the plan."""
    tol: float = Field(0.1, ge=0)
    """Error of the marginals at which it stops."""
    max_iter: PositiveInt = 500
    """Iterations after which it stops anyway."""


class DAGI(Section):
    """Association and the global loss."""

    enabled: bool = True
    """False leaves the module out."""
    association: str = "ot"
    """``ot``, ``hungarian``, ``graph`` or a name given to :func:`salcr.objectives.register_association`, looked up as a
    run starts."""
    k: PositiveInt = NEIGHBORS
    """Neighbours in the graphs of feature propagation."""
    sinkhorn: Sinkhorn = Sinkhorn()


class FGSAL(Section):
    """Part losses."""

    enabled: bool = True
    """False leaves the module out."""


class GPCR(Section):
    """Collaborative refinement."""

    enabled: bool = True
    """False leaves the module out."""
    k: PositiveInt = NEIGHBORS
    """Most similar instances that the sets are made of."""
    weight: float = Field(0.5, ge=0)
    """λ₂, the weight of its losses."""


class Config(Section):
    """Everything that defines a run. Unknown keys and wrong types are errors that name the key."""

    seed: int = Field(0, ge=0, lt=2**63)
    """Of everything random."""
    device: str = "auto"
    """``"auto"`` is the GPU if there is one, else the CPU."""
    backend: Backend = "auto"
    """What operators run on, see :func:`salcr.ops.use_backend`: ``reference`` or ``eager`` leave out every kernel."""
    data: Data = Data()
    model: Model = Model()
    clustering: Clustering = Clustering()
    schedule: Schedule = Schedule()
    augment: Augment = Augment()
    memory: Memory = Memory()
    objectives: Objectives = Objectives()
    dagi: DAGI = DAGI()
    fgsal: FGSAL = FGSAL()
    gpcr: GPCR = GPCR()
    evaluation: Evaluation = Evaluation()
    checkpoints: Checkpoints = Checkpoints()
    logging: Logging = Logging()

    @model_validator(mode="after")
    def _something_to_train(self) -> "Config":
        if self.schedule.stage_two_epochs and not (self.dagi.enabled or self.fgsal.enabled or self.gpcr.enabled):
            raise ValueError("stage two needs one of dagi.enabled, fgsal.enabled and gpcr.enabled")
        return self

    @model_validator(mode="after")
    def _a_cell_for_each_part(self) -> "Config":
        rows, columns = -(-self.data.height // STRIDE), -(-self.data.width // STRIDE)
        if self.model.parts > rows * columns:
            size = f"{self.data.height}x{self.data.width}"
            raise ValueError(f"model.parts is {self.model.parts}, and images of {size} have {rows}x{columns} cells")
        return self

    @model_validator(mode="after")
    def _products_of_one_precision(self) -> "Config":
        if self.schedule.precision == "float64" and self.objectives.precision in ("tf32", "bfloat16"):
            raise ValueError(f"objectives.precision is {self.objectives.precision}, and schedule.precision float64")
        return self

    @model_validator(mode="after")
    def _something_to_choose_from(self) -> "Config":
        if self.checkpoints.keep.best and not self.evaluation.every:
            raise ValueError("checkpoints.keep.best needs evaluation.every: the epochs to choose from")
        return self


def load_config(
    *, preset: str | None = None, file: Path | None = None, overrides: Sequence[str] = (), **sections: Mapping[str, Any]
) -> Config:
    """The configuration from a preset, a YAML file, ``sections`` and ``key.sub=value`` overrides, the last one winning.

    ``sections`` are trusted: the configuration in a checkpoint, which may be anyone's file, is read by
    :func:`salcr.engine.config.config_of_checkpoint` instead, which leaves out its paths.

    Raises:
        ValueError: an unknown preset or key, a wrong type, or no YAML; the message, one line, names the key or file.
        FileNotFoundError: no such file.
    """
    tree: Mapping[str, Any] = {}
    given: Mapping[str, Any] = {}
    if preset is not None:
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        text = resources.files("salcr.engine").joinpath(f"presets/{preset}.yaml").read_text("utf-8")
        tree = parse_yaml(text, f"preset {preset}")
    if file is not None:
        given = read_settings(Path(file))
        tree = _merged(tree, given)
    tree = _merged(tree, sections)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"an override reads key.sub=value, got {override!r}")
        branch = parse_yaml(value, f"the value in {override!r}")
        for name in reversed(key.split(".")):
            branch = {name: branch}
        tree = _merged(tree, branch)
    return _validate(tree, given, f"{file}: ")


def config_of_checkpoint(sections: object, path: Path) -> Config:
    """The configuration that the checkpoint at ``path`` holds, whoever made it: the known sections, without paths.

    Where data are read and files are written is for the command line and the run's own ``config.yaml`` to say:
    ``data.root``, ``data.cache``, ``model.weights`` and ``model.checkpoint`` are None in the result.

    Raises:
        ValueError: it is none; the message, one line, names ``path`` and the key.
    """
    if not isinstance(sections, dict):
        raise ValueError(f"{path}: the configuration must be settings by name, got a {type(sections).__name__}")
    tree = dict(sections)
    for section, name in (key.split(".") for key in PATHS):
        if isinstance(tree.get(section), dict):
            tree[section] = {key: value for key, value in tree[section].items() if key != name}
    return _validate(tree, tree, f"{path}: ")


def differences(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """``{"schedule.lr": (its value in one, its value in other), …}`` of the settings that are not the same."""
    before, after = flattened(one.model_dump(mode="json")), flattened(other.model_dump(mode="json"))
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"schedule.lr": its value, …}`` of settings that stand in sections."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def similar_keys(key: str) -> list[str]:
    """Settings and sections whose names are close to ``key``, or else whose last parts are close to its own."""
    known = list(dict.fromkeys([*flattened(Config().model_dump()), *Config.model_fields]))
    if near := get_close_matches(key[:LONGEST_KEY], known, 1, cutoff=0.75):
        return near
    last = [name.rpartition(".")[2] for name in known]
    near = get_close_matches(key[:LONGEST_KEY].rpartition(".")[2], last, 1, cutoff=0.75)
    return [name for name, end in zip(known, last, strict=True) if end in near]


def single_stage(config: Config, stage: str) -> Config:
    """``config`` with stage ``"one"`` or ``"two"`` left alone, at the learning rates it has in the whole schedule.

    Raises:
        ValueError: another ``stage``.
    """
    schedule = config.schedule
    if stage == "one":
        change: dict[str, Any] = {"stage_two_epochs": 0}
    elif stage == "two":
        moved = tuple(max(0, epoch - schedule.stage_one_epochs) for epoch in schedule.milestones)
        change = {"stage_one_epochs": 0, "milestones": moved}
    else:
        raise ValueError(f"a single stage is one or two, got {stage!r}")
    return config.model_copy(update={"schedule": schedule.model_copy(update=change)})


def dump_config(config: Config) -> str:
    """The configuration as YAML that :func:`salcr.engine.load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80


def _validate(tree: Mapping[str, Any], given: Mapping[str, Any], origin: str) -> Config:
    """The configuration of ``tree``; where the value of a wrong key is the one in ``given``, ``origin`` names that."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problems = error.errors()
    found = [(origin if _same_value(tree, given, p["loc"]) else "") + _describe(p) for p in problems[:SHOWN]]
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    raise ValueError("; ".join([*found, *more]))


def _same_value(tree: Any, given: Any, loc: Sequence[str | int]) -> bool:
    """Whether both have the same object at ``loc``: :func:`_merged` copies no value, so that it tells whose one is."""
    for key in loc:
        if tree is given or not isinstance(tree, Mapping):
            break
        if not isinstance(given, Mapping) or key not in tree or key not in given:
            return False
        tree, given = tree[key], given[key]
    return tree is given


def _describe(problem: Mapping[str, Any]) -> str:
    key, message = ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        near = " or ".join(similar_keys(key))
        return f"unknown key {_SHORT.repr(key)}" + (f", did you mean {near}?" if near else "")
    return f"{key}: {message}, got {_brief(problem['input'])}" if key else message


def _brief(value: Any) -> str:
    """A plain value as it is written, cut where it is long or deep; of anything else the kind."""
    if isinstance(value, int) and abs(value) >= 2**64:
        return "a number of more than 64 bits"
    plain = value is None or isinstance(value, (bool, int, float, str, list, tuple, dict, Path))
    return _SHORT.repr(value) if plain else f"a {type(value).__name__}"


def _merged(tree: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = _merged(below, value) if both else value
    return merged
