"""What threads of a launch exchange through memory, watched by the interpreter; run by test_interpreter.py.

The interpreter runs programs one after the other, and an operation on a block whole before the next one. On a GPU only
``tl.debug_barrier()`` orders what threads of a program store and load, and nothing what programs do.
"""

import contextlib
import itertools
from collections import defaultdict
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from salcr import ops
from tests.ops.memories import check_updates_together
from tests.ops.test_cuda import TABLE, evaluate, make
from tests.ops.together import check_contrasts_together, check_searches_together

ROWS = [
    ("augment", 0),
    ("batch_norm_relu", 0),
    ("batch_norm_relu", 1),
    ("batch_norm_relu", 3),
    ("cluster", 0),
    ("cluster_centroids", 0),
    ("cluster_contrast", 3),
    ("dbscan", 0),
    ("gem_pool", 0),
    ("instance_search", 0),
    ("intersect_sets", 0),
    ("jaccard_distance", 2),
    ("knn", 0),
    ("part_attention", 0),
    ("part_prototypes", 0),
    ("semantic_pool", 0),
    ("set_contrast", 0),
    ("sinkhorn", 1),
    ("update_cluster_memory_", 1),
    ("update_cluster_memory_", 2),
]
PARENTS = "unite_kernel", "roots_kernel"  # of parents that they load so they take the sign, which nobody changes
LOAD, FRESH, STORE, ATOMIC = 1, 2, 4, 8  # FRESH: a load from the L2 cache, in which atomics work


class Access(NamedTuple):
    """Of one address, by an operation on a block."""

    operation: int  # its number
    kind: int
    thread: tuple[int, int]  # place in a block, and the block's size: what has the same is of the same thread
    value: int  # that is stored, as bits


@contextlib.contextmanager
def watched():
    """Fails if an address is changed and reached otherwise, too, by another program, or with no barrier between."""
    seen, now = [], defaultdict(int)
    builder, run = interpreter.InterpreterBuilder, interpreter.GridExecutor.__call__
    load, store, atomic = builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw

    def note(self, kind, pointers, mask, values=0):
        places = np.flatnonzero(mask.data)
        arrays = (np.broadcast_to(x, mask.data.shape).ravel() for x in (pointers.data, values))
        addresses, values = (x[places].astype(np.uint64) for x in arrays)
        now["operation"] += 1
        program = int(np.ravel_multi_index(self.grid_idx, self.grid_dim))
        seen.append((addresses, places, values, mask.data.size, program, now["barrier"], now["operation"], kind))

    def masked_load(self, pointers, mask, other, cache, eviction, is_volatile):
        note(self, FRESH if is_volatile or "CG" in str(cache) else LOAD, pointers, mask)
        return load(self, pointers, mask, other, cache, eviction, is_volatile)

    def masked_store(self, pointers, value, mask, *rest):
        stored = np.ascontiguousarray(value.data)
        note(self, STORE, pointers, mask, stored.view(f"u{stored.itemsize}"))
        return store(self, pointers, value, mask, *rest)

    def atomic_rmw(self, operation, pointers, value, mask, *rest):
        note(self, ATOMIC, pointers, mask)
        return atomic(self, operation, pointers, value, mask, *rest)

    def create_barrier(self):
        now["barrier"] += 1

    def execute(self, *arguments, **options):
        seen.clear()
        run(self, *arguments, **options)
        only_signs = self.fn.__name__ in PARENTS
        found = race([block for block in seen if not (only_signs and block[-1] == LOAD)])
        assert not found, f"{self.fn.__name__}: {found}"

    patches = dict(create_masked_load=masked_load, create_masked_store=masked_store, create_atomic_rmw=atomic_rmw)
    with (
        mock.patch.multiple(builder, create_barrier=create_barrier, **patches),
        mock.patch.object(interpreter.GridExecutor, "__call__", execute),
    ):
        yield


def race(seen):
    """What is not in order among all that operations of a launch did, or None."""
    sizes = [len(addresses) for addresses, *_ in seen]
    addresses, places, values = (np.concatenate([block[n] for block in seen]) for n in range(3))
    size, program, barriers, operation, kind = np.array([block[3:] for block in seen]).repeat(sizes, axis=0).T
    if contended(addresses[None], program, kind)[0].any():
        return "programs share an address"
    suspects, (suspect, group) = (
        defaultdict(list),
        contended(np.stack([addresses, barriers.astype(np.uint64)]), operation, kind),
    )
    for n in np.flatnonzero(suspect):
        suspects[group[n]].append(Access(operation[n], kind[n], (places[n], size[n]), values[n]))
    pairs = itertools.chain.from_iterable(itertools.combinations(accesses, 2) for accesses in suspects.values())
    return next((f"no barrier between {pair}" for pair in pairs if not in_order(*pair)), None)


def contended(groups, actors, kinds):
    """Of accesses which are of a group that several actors reach and one changes, and the number of each group."""
    _, group = np.unique(groups, axis=1, return_inverse=True)
    all_kinds, first, last = np.zeros(len(group), int), np.full(len(group), actors.max()), np.zeros(len(group), int)
    np.bitwise_or.at(all_kinds, group, kinds)
    np.minimum.at(first, group, actors)
    np.maximum.at(last, group, actors)
    changed = (all_kinds & STORE > 0) | (all_kinds & (LOAD | ATOMIC) == LOAD | ATOMIC)
    return (changed & (first < last))[group], group


def in_order(first, second):
    """Whether of two accesses of a program, between two barriers, neither can be the other's first."""
    kinds = first.kind | second.kind
    if first.operation == second.operation or not kinds & (STORE | ATOMIC):
        return True
    if kinds & ATOMIC:
        return not kinds & (STORE | LOAD)
    if second.kind == STORE:
        same = first.kind == STORE and first.value == second.value
        return same or first.thread == second.thread
    return False


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_threads_exchange_nothing_without_a_barrier(generator, name, row):
    made = make(TABLE[name][row], generator)
    with watched():
        evaluate(
            lambda *given, **options: getattr(ops, name)(*given, impl="triton", **options),
            TABLE[name][row],
            *made,
            "cpu",
            torch.float32,
        )


@pytest.mark.filterwarnings("ignore:(All-NaN slice|invalid value) encountered:RuntimeWarning")  # NumPy, of NaN rows
@pytest.mark.parametrize("check", [check_contrasts_together, check_searches_together])
def test_nor_do_terms_of_one_launch(generator, check):
    with watched():
        check("triton", generator, torch.float32)


def test_nor_do_memories_that_are_updated_in_one_launch(generator):
    with watched():
        check_updates_together("triton", generator, torch.float32, "cpu")


def test_views_may_have_the_same_scaling(generator):
    images, draws = (draw(generator) for draw in TABLE["augment"][0].arguments)
    options = {name: draw(generator) for name, draw in TABLE["augment"][0].options.items()}
    draws[:, ops.augmentation.Draw.SCALING] = 0
    with watched():
        found = ops.augment(images, draws, impl="triton", **options)
    assert (found - ops.augment(images, draws, impl="reference", **options)).abs().max() < 1e-5


@triton.jit
def shift_kernel(x, BARRIER: tl.constexpr):
    n = tl.arange(0, 16)
    tl.store(x + n, n)
    if BARRIER:
        tl.debug_barrier()
    tl.store(x + 16 + n, tl.load(x + 15 - n))


def test_a_missing_barrier_and_a_shared_address_are_found():
    x = torch.zeros(32, dtype=torch.int32)
    with watched():
        shift_kernel[(1,)](x, BARRIER=True)
        with pytest.raises(AssertionError, match="no barrier between"):
            shift_kernel[(1,)](x, BARRIER=False)
        with pytest.raises(AssertionError, match="programs share an address"):
            shift_kernel[(2,)](x, BARRIER=True)
