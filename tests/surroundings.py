"""What a program may have set around a call of the library."""

from contextlib import contextmanager

import torch


@contextmanager
def default(of, value, before):
    of(value)
    try:
        yield
    finally:
        of(before)


SURROUNDINGS = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "float64": lambda: default(torch.set_default_dtype, torch.float64, torch.float32),
    "float16": lambda: default(torch.set_default_dtype, torch.float16, torch.float32),
    "another device": lambda: default(torch.set_default_device, "meta", None),
}
