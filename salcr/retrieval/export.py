"""Handing a trained network on: ONNX, torch's exported programs, and a state dict in the authors' layout.

An exported network takes pictures and gives the global feature, which is what retrieval uses: normalisation is inside,
and nothing of it needs this package.
"""

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from salcr.files import make_parent, write_atomically
from salcr.models import SALCRNetwork
from salcr.models.authors import authors_state
from salcr.models.checkpoints import Trained, load_trained
from salcr.models.features import extract_features
from salcr.models.resnet import through_stages
from salcr.ops.augmentation import MEAN, STD
from salcr.retrieval.onnx_rounding import in_float32
from salcr.surroundings import own_settings

FORMATS = ("onnx", "torch", "authors")
MODALITIES = ("visible", "infrared", "both")
DTYPES = ("float32", "float16", "bfloat16")
INPUTS = ("uint8", "float32")
CHECKED = 10
"""Pictures that an exported network is compared on."""
BFLOAT16_OPSET = 22
"""The first in which a convolution takes bfloat16."""
LEAST_COSINE = {"float32": 0.9999, "float16": 0.99, "bfloat16": 0.99}
Run = Callable[..., np.ndarray]


class Check(NamedTuple):
    """How the features of an exported network differ from the network's own.

    Attributes:
        difference: the largest of any element; features have length 1.
        cosine: the smallest of any picture's two features.
        ran_on: what ran the file, with its version.
    """

    difference: float
    cosine: float
    ran_on: str


class Embedder(nn.Module):
    """From pictures to unit features ``[B, D]`` in float32, by standard operators alone.

    Args:
        network: a copy of its layers is kept.
        modality: whose stem; with ``"both"`` a second input ``infrared [B]``, bool, says it for each picture.
        dtype: of the residual layers' arithmetic. Pooling and what follows are float32.
        mirror: the mean of a picture's and its mirror image's feature, normalised again, as in an index.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(self, network: SALCRNetwork, modality: str, dtype: torch.dtype, *, mirror: bool) -> None:
        super().__init__()
        network = copy.deepcopy(network).eval()
        self.modality, self.dtype, self.mirror, self.power = modality, dtype, mirror, network.gem.p
        self.stems = nn.ModuleDict(
            {
                side: getattr(network.backbone, f"{side}_stem").to(dtype)
                for side in ("visible", "infrared")
                if modality in (side, "both")
            }
        )
        self.stages, self.norm = network.backbone.stages.to(dtype), network.norm
        for name, values in (("pixel_mean", MEAN), ("pixel_std", STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor, infrared: torch.Tensor | None = None) -> torch.Tensor:
        """``images``: uint8 ``[B, H, W, 3]``, or float32 ``[B, 3, H, W]`` from 0 to 1."""
        x = images.permute(0, 3, 1, 2).float() / 255 if images.dtype == torch.uint8 else images
        x = (x - self.pixel_mean) / self.pixel_std
        f = self._embed(x, infrared)
        return F.normalize(f + self._embed(x.flip(3), infrared)) if self.mirror else f

    def _embed(self, x: torch.Tensor, infrared: torch.Tensor | None) -> torch.Tensor:
        x = x.to(self.dtype)
        maps = [stem(x) for stem in self.stems.values()]
        x = maps[0] if infrared is None else torch.where(infrared[:, None, None, None], maps[1], maps[0])
        x = through_stages(self.stages, x)
        pooled = (x.float().pow(self.power).mean((2, 3)) + 1e-12).pow(1 / self.power)
        return F.normalize(self.norm(pooled))


@own_settings()
def export_network(
    checkpoint: str | Path,
    out: str | Path,
    *,
    format: str,
    modality: str = "both",
    dtype: str = "float32",
    input: str = "uint8",
    mirror: bool = False,
    layout: str = "auto",
    height: int | None = None,
    width: int | None = None,
) -> Check | None:
    """Write a trained network to a file that runs without this package, once it has been run and compared.

    Args:
        checkpoint: of a training run, or with the names of the authors' code.
        out: the file.
        format: ``"onnx"``; ``"torch"``, a program for ``torch.export.load``; or ``"authors"``, a checkpoint with the
            names of the published code, which the other arguments say nothing about.
        modality: ``"visible"``, ``"infrared"``, or ``"both"``, with an input that tells them apart.
        dtype: of the arithmetic, ``"float32"``, ``"float16"`` or ``"bfloat16"``; features are in float32.
        input: ``"uint8"``, pictures ``[B, H, W, 3]``, or ``"float32"``, ``[B, 3, H, W]`` from 0 to 1.
        mirror: see :class:`Embedder`.
        layout, height, width: of the checkpoint, see :func:`salcr.models.checkpoints.load_trained`.

    Returns:
        The comparison with the network in float32 on :data:`CHECKED` pictures; None for ``"authors"``.

    Raises:
        ValueError: a wrong argument, no checkpoint, a package that the format needs is not installed.
        ArithmeticError: the features differ by more than rounding; nothing is written.
        OSError: a file cannot be read or written.
    """
    choices = dict(format=FORMATS, modality=MODALITIES, dtype=DTYPES, input=INPUTS)
    given = dict(format=format, modality=modality, dtype=dtype, input=input)
    for name, value in given.items():
        if value not in choices[name]:
            raise ValueError(f"{name} must be one of {', '.join(choices[name])}, got {value!r}")
    path = Path(out)
    make_parent(path)
    trained = load_trained(Path(checkpoint), torch.device("cpu"), layout=layout, height=height, width=width)
    if format == "authors":
        content = io.BytesIO()
        torch.save({"state_dict": authors_state(trained.network), "epoch": 0, "best_mAP": 0.0}, content)
        write_atomically(path, content.getvalue())
        return None
    embedder = Embedder(trained.network, modality, getattr(torch, dtype), mirror=mirror).eval()
    shape = CHECKED, trained.height, trained.width, 3
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    images = pixels if input == "uint8" else pixels.permute(0, 3, 1, 2).float() / 255
    sides = torch.arange(CHECKED) % 2 == 1 if modality == "both" else torch.full((CHECKED,), modality == "infrared")
    arguments = (images, sides) if modality == "both" else (images,)
    program = _traced(embedder, tuple(x[:2] for x in arguments))
    content, run, ran_on = (_as_onnx if format == "onnx" else _as_torch)(program)
    check = _compare(trained, pixels, sides, run, arguments, ran_on, mirror)
    if not check.cosine >= LEAST_COSINE[dtype]:
        raise ArithmeticError(
            f"{path} is not written: run on {ran_on}, its features have a cosine of {check.cosine:.5f} to the network's"
        )
    write_atomically(path, content)
    return check


def _traced(embedder: Embedder, arguments: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    """The program, for any number of pictures."""
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(embedder, arguments, dynamic_shapes=tuple({0: batch} for _ in arguments))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine, which are nobody's business
    return program


def _as_torch(program: torch.export.ExportedProgram) -> tuple[bytes, Run, str]:
    content = io.BytesIO()
    with _quiet():
        torch.export.save(program, content)

    def run(*arguments: torch.Tensor) -> np.ndarray:
        with _quiet():
            program = torch.export.load(io.BytesIO(content.getvalue()))
        return program.module()(*arguments).detach().numpy()

    return content.getvalue(), run, f"torch {torch.__version__}"


def _as_onnx(program: torch.export.ExportedProgram) -> tuple[bytes, Run, str]:
    try:
        import onnxruntime
        from onnxscript import optimizer  # of what torch writes ONNX with
    except ImportError as error:
        raise ValueError(f"the format onnx needs {error.name}: pip install 'salcr[onnx]'") from error
    names = ["images", "infrared"][: len(program.graph_signature.user_inputs)]
    options = dict(dynamo=True, verbose=False, input_names=names, output_names=["features"])
    in_bfloat16 = torch.bfloat16 in (x.dtype for x in program.state_dict.values())
    if in_bfloat16:
        options |= dict(opset_version=BFLOAT16_OPSET, optimize=False)
    with _quiet():
        made = torch.onnx.export(program, **options)
        if in_bfloat16:  # all of its optimisations but that which folds norms into kernels, to float32
            optimizer.fold_constants(made.model)
            optimizer.remove_unused_nodes(made.model)
        model = made.model_proto
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")  # what it was traced from
        part.ClearField("doc_string")
    content, ran_on = model.SerializeToString(), f"onnxruntime {onnxruntime.__version__}"
    settings = onnxruntime.SessionOptions()
    if in_bfloat16 and not _runs(content):
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        checked = in_float32(model).SerializeToString()
        ran_on += ", which has no bfloat16 here, in float32 with each result rounded to bfloat16,"
    else:
        checked = content

    def run(*arguments: torch.Tensor) -> np.ndarray:
        session = onnxruntime.InferenceSession(checked, settings, providers=["CPUExecutionProvider"])
        given = {name: x.numpy() for name, x in zip(names, arguments, strict=True)}
        return session.run(None, given)[0]

    return content, run, ran_on


def _runs(content: bytes) -> bool:
    """Whether onnxruntime has all of the graph's operators on the CPU."""
    import onnxruntime

    try:
        onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return False
    return True


def _compare(
    trained: Trained,
    pixels: torch.Tensor,
    sides: torch.Tensor,
    run: Run,
    arguments: tuple[torch.Tensor, ...],
    ran_on: str,
    mirror: bool,
) -> Check:
    expected = torch.empty(len(pixels), trained.network.width)
    for infrared in (False, True):
        rows = sides == infrared
        if rows.any():
            options = dict(infrared=infrared, batch=len(pixels), device=torch.device("cpu"), mirror=mirror)
            expected[rows] = extract_features(trained.network, pixels[rows].numpy(), **options).f
    found = torch.from_numpy(run(*arguments))
    cosines = F.cosine_similarity(found.double(), expected.double())
    return Check(float((found - expected).abs().max()), float(cosines.min()), ran_on)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of its own parts and of packages that it could use."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
