"""The configuration of a run: typed, checked, from a preset, a YAML file and command-line overrides."""

import reprlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

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
from salcr.engine.yaml_settings import parse_yaml, read_settings

PATHS = ("data.root", "data.cache", "model.weights", "model.checkpoint")
SHOWN = 10  # wrong keys in a message
PRESETS = ("demo", *(spec.preset for spec in DATASETS.values() if spec.preset))
Refinement = Literal["cmfp", "k_reciprocal", "cmrr", "aim"]
Backend = Literal["auto", "reference", "eager", "cpp", "numba", "triton", "cuda", "faiss"]
Side = Annotated[int, Field(ge=1, le=4096)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    """Where the images are and the size they are trained at."""

    name: str = SYSU.name
    """One of :data:`salcr.data.DATASETS`."""
    root: Path | None = None
    trial: PositiveInt = 1
    """Which split, from 1, of a data set that has several."""
    height: Side = 288
    width: Side = 144
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
    parts: int = Field(3, ge=1, le=256)
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
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """Of the network's arithmetic. With bfloat16 (autocast) losses and memories are float32, with float64 everything is
    float64: slow, and made for comparing runs, see docs/distributed.md."""


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

    seed: int = Field(0, ge=0, lt=2**63)
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

    What a stranger's file says goes through :func:`config_of_checkpoint`, never into ``sections``.

    Raises:
        ValueError: an unknown preset or key, a wrong type, or no YAML; the message, one line, names the key or file.
        FileNotFoundError: no such file.
    """
    tree: Mapping[str, Any] = {}
    given: Mapping[str, Any] = {}
    if preset is not None:
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        text = resources.files("salcr.engine").joinpath(f"presets/{preset}.yaml").read_text()
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
    before, after = _flat(one.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


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
    """Whether both have the same object at ``loc``."""
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
        return f"unknown key {_SHORT.repr(key)}"
    return f"{key}: {message}, got {_brief(problem['input'])}" if key else message


def _brief(value: Any) -> str:
    """A plain value as it is written, cut where it is long or deep; of anything else the kind."""
    if isinstance(value, int) and abs(value) >= 2**64:
        return "a number of more than 64 bits"
    plain = value is None or isinstance(value, (bool, int, float, str, list, tuple, dict, Path))
    return _SHORT.repr(value) if plain else f"a {type(value).__name__}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def _merged(tree: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = _merged(below, value) if both else value
    return merged
