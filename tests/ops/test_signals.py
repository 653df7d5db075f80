"""Handlers of signals run while a function of the extension works, and what they raise ends it, as Ctrl-C does."""

import signal
import threading
from contextlib import contextmanager

import numpy as np
import pytest

_C = pytest.importorskip("salcr._C")


@contextmanager
def ticks():
    """Inside, a signal every 50 ms, whose second handler raises; while no handler runs, all that come are one."""
    came = []

    def handle(*_):
        came.append(len(came))
        if len(came) == 2:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        yield came
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def search(threads, rows=60_000):
    x = np.random.default_rng(0).standard_normal((rows, 256), np.float32)
    scores, indices = np.zeros((rows, 4), np.float32), np.zeros((rows, 4), np.int64)
    return _C.nearest_pairs, (x, None, scores, indices, 0, None, np.inf, threads)


def cosines(threads):
    """Chunks of queries."""
    rng = np.random.default_rng(0)
    ranks, weights = rng.integers(0, 20_000, (20_000, 20), np.int32), rng.random((20_000, 6), np.float32)
    return _C.graph_cosines, (ranks, weights, np.empty((5000, 15_000), np.float32), threads)


def assignment(threads):
    """Of rank one, where each path is long."""
    rng = np.random.default_rng(0)
    return _C.linear_assignment, (rng.random((3000, 1)) * rng.random((1, 3000)), 1, False, threads)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("call", [search, cosines, assignment])
def test_what_a_handler_raises_ends_the_call(call, threads):
    function, arguments = call(threads)
    with pytest.raises(KeyboardInterrupt), ticks():
        function(*arguments)
    function, arguments = search(threads, rows=200)
    assert function(*arguments)


def test_problems_that_have_not_begun_are_left_out():
    function, (costs, *options) = assignment(1)
    with pytest.raises(KeyboardInterrupt), ticks() as came:
        function(np.broadcast_to(costs, (20, *costs.shape)), *options)
    assert len(came) < 6  # each problem would take several more


def test_other_threads_work_on():
    """Handlers are the main thread's: it runs them beside a call that another thread makes."""
    function, arguments = search(1, rows=4000)
    found = []
    other = threading.Thread(target=lambda: found.append(function(*arguments)))
    with pytest.raises(KeyboardInterrupt), ticks():
        other.start()
        while True:
            signal.pause()
    other.join()
    assert found == [True]
