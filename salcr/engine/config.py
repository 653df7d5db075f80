"""The configuration of a run: typed, checked, from a preset, a YAML file and command-line overrides."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
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
from salcr.defaults import MOMENTUM, NEIGHBORS, TEMPERATURE

PRESETS = ("demo", *(spec.preset for spec in DATASETS.values() if spec.preset))
Refinement = Literal["cmfp", "k_reciprocal", "cmrr", "aim"]
Backend = Literal["auto", "reference", "eager", "cpp", "numba", "triton", "cuda", "faiss"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Where the images are and the size they are trained at."""

    name: str = SYSU.name
    """One of :data:`salcr.data.DATASETS`."""
    root: Path | None = None
    trial: PositiveInt = 1
    """Which split, from 1, of a data set that has several."""
    height: PositiveInt = 288
    width: PositiveInt = 144
    cache: Path | None = None
    """Folder of the decoded images; by default ``.salcr-cache`` below the data set's root, or one of the user's."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DATASETS:
            raise ValueError(f"must be one of {', '.join(DATASETS)}")
        return name


class Model(Section):
    """The network and the weights it starts from."""

    architecture: Literal["resnet50", "resnet18", "tiny"] = "resnet50"
    parts: PositiveInt = 3
    weights: Path | Literal["bundled"] | None = None
    """A classifier's weights (see :func:`salcr.models.weights.read_weights`), or the small file of the package."""
    checkpoint: Path | None = None
    """A checkpoint of this project whose network to start from, for stage two alone."""
    authors_pg1: bool = False


class Clustering(Section):
    """Pseudo labels of an epoch (docs/method.md, "Pseudo labels")."""

    k1: PositiveInt = NEIGHBORS
    k2: PositiveInt = 6
    eps: PositiveFloat = 0.6
    min_samples: PositiveInt = 4


class Schedule(Section):
    """Epochs, batches and the optimiser (docs/method.md, "Schedule")."""

    stage_one_epochs: NonNegativeInt = 40
    stage_two_epochs: NonNegativeInt = 40
    iterations: PositiveInt = 300
    identities: PositiveInt = 12
    images: PositiveInt = 12
    lr: PositiveFloat = 3.5e-4
    weight_decay: float = Field(5e-4, ge=0)
    milestones: tuple[NonNegativeInt, ...] = (20, 60)
    """Epochs, counted over both stages, from which the learning rate is multiplied by ``gamma`` once more."""
    gamma: PositiveFloat = 0.1
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's arithmetic (autocast); losses and memories are float32."""


class Augment(Section):
    """See :class:`salcr.data.augment.Augmentation`."""

    pad: NonNegativeInt = 10
    erase: float = Field(0.5, ge=0, le=1)
    jitter: float = Field(0.5, ge=0, le=0.5)


class Memory(Section):
    """Cluster and instance memories (docs/method.md, "Stage one")."""

    momentum: float = Field(MOMENTUM, ge=0, le=1)
    temperature: PositiveFloat = TEMPERATURE


class Sinkhorn(Section):
    """Options of :func:`salcr.ops.sinkhorn`, for the association ``ot``."""

    lam: PositiveFloat = 5.0
    tol: float = Field(0.1, ge=0)
    max_iter: PositiveInt = 500


class DAGI(Section):
    """Association and the global loss."""

    enabled: bool = True
    association: str = "ot"
    """``ot``, ``hungarian``, ``graph`` or a name given to :func:`salcr.objectives.register_association`, looked up as a
    run starts."""
    k: PositiveInt = NEIGHBORS
    sinkhorn: Sinkhorn = Sinkhorn()


class FGSAL(Section):
    """Part losses."""

    enabled: bool = True


class GPCR(Section):
    """Collaborative refinement."""

    enabled: bool = True
    k: PositiveInt = NEIGHBORS
    weight: float = Field(0.5, ge=0)
    """λ₂."""


class Evaluation(Section):
    """Protocols are those of the data set; refinements are reported beside the raw numbers."""

    batch: PositiveInt = 128
    refinements: tuple[Refinement, ...] = ("cmfp",)
    cmfp_k: PositiveInt = NEIGHBORS
    cmrr_k: PositiveInt = 15
    aim_k1: PositiveInt = 4
    aim_k2: PositiveInt = 1


class Config(Section):
    """Everything that defines a run. Unknown keys and wrong types are errors that name the key."""

    seed: NonNegativeInt = 0
    device: str = "auto"
    """``"auto"`` is the GPU if there is one, else the CPU."""
    backend: Backend = "auto"
    """What the operators run on, see :func:`salcr.use_backend`: ``reference`` or ``eager`` leave out every kernel."""
    data: Data = Data()
    model: Model = Model()
    clustering: Clustering = Clustering()
    schedule: Schedule = Schedule()
    augment: Augment = Augment()
    memory: Memory = Memory()
    dagi: DAGI = DAGI()
    fgsal: FGSAL = FGSAL()
    gpcr: GPCR = GPCR()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _something_to_train(self) -> "Config":
        if self.schedule.stage_two_epochs and not (self.dagi.enabled or self.fgsal.enabled or self.gpcr.enabled):
            raise ValueError("stage two needs one of dagi.enabled, fgsal.enabled and gpcr.enabled")
        return self


def load_config(
    *, preset: str | None = None, file: Path | None = None, overrides: Sequence[str] = (), **sections: Mapping[str, Any]
) -> Config:
    """The configuration from a preset, a YAML file, ``sections`` and ``key.sub=value`` overrides, the last one winning.

    Raises:
        ValueError: an unknown preset or key, a wrong type, or no YAML; the message, one line, names the key or file.
        FileNotFoundError: no such file.
    """
    tree: dict[str, Any] = {}
    if preset is not None:
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        text = resources.files("salcr.engine").joinpath(f"presets/{preset}.yaml").read_text()
        _merge(tree, _parse(text, f"preset {preset}"))
    if file is not None:
        given = _parse(Path(file).read_text(), str(file)) or {}
        if not isinstance(given, Mapping):
            raise ValueError(f"{file} must hold settings by name, got {given!r}")
        _merge(tree, given)
    _merge(tree, sections)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"an override reads key.sub=value, got {override!r}")
        branch = _parse(value, f"the value in {override!r}")
        for name in reversed(key.split(".")):
            branch = {name: branch}
        _merge(tree, branch)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ValueError("; ".join(_describe(problem) for problem in error.errors())) from error


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
        raise ValueError(f"the stage must be one or two, got {stage!r}")
    return config.model_copy(update={"schedule": schedule.model_copy(update=change)})


def dump_config(config: Config) -> str:
    """The configuration as YAML that :func:`load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _parse(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{what} is not YAML: {' '.join(str(error).split())}") from error


def _describe(problem: Mapping[str, Any]) -> str:
    key, message = ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}"
    return f"{key}: {message}, got {problem['input']!r}" if key else message


def _merge(tree: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value
