"""Files of other people's weights: torch's zip format, its older one, and safetensors. Data is read, never code."""

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

WRAPPERS = ("state_dict", "model")
NAMED = 5


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by their names; the format is told by the content.

    Args:
        path: a state dict of ``torch.save``, in its zip format or the one before torch 1.6, alone or below
            ``state_dict`` or ``model``; or a ``.safetensors`` file. A prefix ``module.`` is taken off the names.

    Raises:
        OSError: no such file, or the disk does not give it.
        ValueError: it is damaged, of another format, holds anything but tensors and plain values, or no tensor by
            name. The message, one line, names the file and what was found.
    """
    content = Path(path).read_bytes()
    try:
        state = read_content(content)
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        raise ValueError(f"{path} cannot be read as network weights: {why_refused(error)}") from error
    tensors = tensors_by_name(state)
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name, but {describe(state)}")
    return tensors


def tensors_by_name(state: Any) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, alone or below ``state_dict`` or ``model``, without the prefix ``module.``."""
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping):
        return {}
    return {
        name.removeprefix("module."): tensor
        for name, tensor in state.items()
        if isinstance(name, str) and isinstance(tensor, torch.Tensor)
    }


def misfits(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> str:
    """What keeps ``given`` from being copied to ``own``: the first five names, what each must be and is; else empty."""
    found = [f"{name} {tuple(x.shape)} {wrong}" for name, x in own.items() if (wrong := _misfit(x, given.get(name)))]
    if not found:
        return ""
    others = [name for name in given if name not in own]
    holds = f" (it has {', '.join(others[:NAMED])})" if others and not own.keys() & given.keys() else ""
    return name_some(found, "; ") + holds


def name_some(names: Sequence[str], separator: str = ", ") -> str:
    """The first five, and how many more there are."""
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return separator.join([*names[:NAMED], *more])


def describe(state: Any) -> str:
    """In a few words what was found in the place of tensors by name."""
    found = [*map(repr, state)] if isinstance(state, Mapping) else [f"a {type(state).__name__}"]
    return name_some(found)[:200] or "nothing"


def why_refused(error: Exception) -> str:
    """One line about a file that torch or safetensors did not read, without their advice to read it unsafely."""
    message = str(error)
    if isinstance(error, pickle.UnpicklingError):
        name = re.search(r"GLOBAL ([^\s]{1,100})", message)
        holds = f"it asks for {name[1]!r}" if name else "it is damaged, or holds other things"
        return f"{holds}, and only tensors and plain values are read"
    if isinstance(error, MemoryError) or "can't allocate memory" in message:
        return "it asks for more memory than there is"
    line = message.strip().partition("\n")[0]
    return line[:300] if line and "weights_only" not in line else type(error).__name__


def read_content(content: bytes) -> Any:
    """What a file of ``torch.save``, in either of its formats, or of safetensors holds: tensors and plain values only.

    Of the zip format every byte is checked; the others have no checksums.

    Raises:
        Exception: of nearly any kind, for :func:`why_refused`.
    """
    if _is_safetensors(content):
        return _read_safetensors(content)
    if content.startswith(b"PK"):
        _check_zip(content)
    elif not content.startswith(b"\x80"):
        raise ValueError(f"neither torch's format nor safetensors, it begins with {content[:16]!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle's protocol: an error that names the file follows
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def is_dense(x: torch.Tensor) -> bool:
    """Whether it has values, all of them and one by one: a file may hold other kinds of tensors."""
    return x.layout == torch.strided and not (x.is_quantized or x.is_nested or x.is_meta)


def _misfit(own: torch.Tensor, given: torch.Tensor | None) -> str:
    if given is None:
        return "is missing"
    if not (is_dense(given) and given.is_floating_point()):
        kind = "nested" if given.is_nested else given.layout
        return f"got {given.dtype}, {kind} on {given.device}"
    if given.shape != own.shape:
        return f"got {tuple(given.shape)}"
    return "" if given.float().isfinite().all() else "got values that are not finite"


def _is_safetensors(content: bytes) -> bool:
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= len(content) - 8


def _read_safetensors(content: bytes) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise ValueError("it is a safetensors file, and safetensors is not installed") from error
    return load(content)


def _check_zip(content: bytes) -> None:
    """Raise unless ``torch.save`` could have written this zip file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise ValueError("it is a TorchScript program")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its content is compressed, which torch never does")
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("its content is larger than the file")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
