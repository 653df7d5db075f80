"""A registry for tests of the benchmarks: sound, wrong, greedy, crashing, late variants, one that lacks a library."""

import os
import signal
import time

import torch

from benchmarks import devices
from benchmarks.case import Case, close

devices.COPIED["cpu"], devices.MATRIX["cpu"] = 1 << 20, 128  # in the worker: tests ask for ceilings, not for true ones


def three(device, quick):
    return (torch.arange(3.0),)


def double(x):
    return 2 * x


def wrong(x):
    return 2 * x + 1e-3


def raising(x):
    raise RuntimeError("out of order")


def drifting():
    """Right at first, wrong from the fourth call on: right in every check that is made before timing."""
    calls = []

    def variant(x):
        calls.append(x)
        return 2 * x + (len(calls) > 3)

    return variant


def asleep(x):
    time.sleep(float(os.environ.get("SALCR_TEST_SLEEP", "0.004")))
    return 2 * x


def holding(x):
    """Holds 64 MB for a moment."""
    block = torch.ones(1 << 24)
    return block[0] * 2 * x


def out_of_memory(x):
    return torch.empty(1 << 50)


def killed(x):
    os.kill(os.getpid(), signal.SIGKILL)


def aborting(x):
    os.abort()


def peer(x):
    import no_such_library

    return no_such_library.double(x)


def endless(x):
    """At full size it never ends."""
    if len(x) > 3:
        time.sleep(1e6)
    return 2 * x


def four(device, quick):
    return three(device, quick) if quick else (torch.arange(4.0),)


def case(name="a case", check=close, make_inputs=three, **variants):
    return Case(name, "three numbers", make_inputs, variants, check)


CASES = (
    case("sound", reference=double, asleep=asleep, holding=holding),
    case("unsound", reference=double, wrong=wrong, raising=raising, aborting=aborting, right=lambda x: x + x),
    case("lacking", reference=double, peer=peer, greedy=out_of_memory, killed=killed),
    case("nothing to match", reference=killed, right=double),
    case("late", make_inputs=four, published=endless, auto=double),
)
