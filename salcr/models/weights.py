"""Files of other people's weights: torch's zip format, its older one, and safetensors. Data is read, never code."""

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
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
        state = _read_safetensors(content) if _is_safetensors(content) else _read_torch(content)
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        raise ValueError(f"{path} cannot be read as network weights: {why_refused(error)}") from error
    tensors = tensors_by_name(state)
    if not tensors:
        found = [*map(repr, state)][:NAMED] if isinstance(state, Mapping) else [f"a {type(state).__name__}"]
        raise ValueError(f"{path} holds no tensors by name, but {', '.join(found)[:200] or 'nothing'}")
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
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    others = [name for name in given if name not in own]
    holds = f" (it has {', '.join(others[:NAMED])})" if others and not own.keys() & given.keys() else ""
    return "; ".join(found[:NAMED]) + more + holds


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


def read_zip(content: bytes) -> Any:
    """What ``torch.save`` wrote in its zip format: tensors and plain values only, every byte checked.

    Raises:
        Exception: of nearly any kind, for :func:`why_refused`.
    """
    _check_zip(content)
    return _load(content)


def _misfit(own: torch.Tensor, given: torch.Tensor | None) -> str:
    if given is None:
        return "is missing"
    if given.shape != own.shape:
        return f"got {tuple(given.shape)}"
    if given.layout != torch.strided or given.is_meta or not given.is_floating_point():
        return f"got {given.dtype}, {given.layout} on {given.device}"
    return "" if given.float().isfinite().all() else "got values that are not finite"


def _is_safetensors(content: bytes) -> bool:
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= len(content) - 8


def _read_safetensors(content: bytes) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise ValueError("it is a safetensors file, and safetensors is not installed") from error
    return load(content)


def _read_torch(content: bytes) -> Any:
    if content.startswith(b"PK"):
        return read_zip(content)
    if not content.startswith(b"\x80"):
        raise ValueError(f"neither torch's format nor safetensors, it begins with {content[:16]!r}")
    return _load(content)


def _load(content: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickle's protocol, where an error with the file's name follows
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _check_zip(content: bytes) -> None:
    """Raise where it is no zip file that ``torch.save`` could have written."""
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
