"""Calls that do what a worker must survive; see ``test_fuzz.py``."""

import os
import time


def prepare() -> None:
    """Nothing."""


def finding(seed: int, number: int) -> str | None:
    if number == 1:
        os.abort()
    if number == 2:
        time.sleep(60)
    if number == 3:
        bytearray(2**33)
    return "wrong" if number == 4 else None
