"""Files of weights in every format, and what none of them may hold."""

from pathlib import Path

import safetensors.torch
import torch


def write(content: object, path: Path, written: str = "zip") -> Path:
    """``written``: "zip", "older" (torch's format before 1.6) or "safetensors"."""
    if written == "safetensors":
        safetensors.torch.save_file({name: x.clone().contiguous() for name, x in content.items()}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=written == "zip")
    return path


class WritesAFile:
    """Unpickling it writes a file."""

    def __reduce__(self):
        return open, ("written", "w")
