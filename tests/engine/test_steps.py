import contextlib
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from salcr.data.augment import Augmentation, make_views
from salcr.data.resident import resident
from salcr.engine import steps
from salcr.engine.steps import (
    CHECK_EVERY,
    BatchMemory,
    LossWatch,
    NonFiniteLoss,
    draw_batch,
    load_batches,
    optimise,
    training_views,
)
from salcr.ops.augmentation import Draw

PATHS = tuple(f"cam1/{i:04d}.jpg" for i in range(50)), tuple(f"cam3/{i:04d}.jpg" for i in range(50))


def batch_of(step):
    return torch.tensor([step, step + 1, step]), torch.tensor([49 - step, 48 - step, 49 - step])


def losses_of(step, bad=None, value=math.nan):
    return {"visible": torch.tensor(value if step == bad else step / 4, requires_grad=True), "infrared": torch.ones(())}


@pytest.mark.parametrize("steps", [1, 2 * CHECK_EVERY, 2 * CHECK_EVERY + 3])
def test_means_of_an_epoch(steps):
    watch = LossWatch(0, PATHS)
    for step in range(steps):
        watch.add(losses_of(step), batch_of(step))
    assert watch.means() == {"visible": round(sum(range(steps)) / 4 / steps, 5), "infrared": 1.0}


def test_the_recent_loss_is_that_of_the_steps_looked_at_last():
    watch, told = LossWatch(0, PATHS), []
    for step in range(2 * CHECK_EVERY + 3):
        watch.add(losses_of(step), batch_of(step))
        told.append(watch.recent)
    first, second = 1 + sum(range(10)) / 40, 1 + sum(range(10, 20)) / 40
    assert told == [None] * (CHECK_EVERY - 1) + [first] * CHECK_EVERY + [second] * 4


@pytest.mark.parametrize("bad", [None, 3, CHECK_EVERY + 1, 2 * CHECK_EVERY + 1])
def test_losses_that_arrive_late_are_judged_a_look_later(monkeypatch, bad):
    """As from a GPU: what is copied is on the host only after it was waited for."""
    waited = []

    def begin_copy(x):
        host = torch.full_like(x, math.nan)
        return host, lambda: (host.copy_(x), waited.append(step))

    monkeypatch.setattr(steps, "begin_copy", begin_copy)
    watch, end = LossWatch(7, PATHS), 2 * CHECK_EVERY + 3
    with contextlib.nullcontext() if bad is None else pytest.raises(NonFiniteLoss, match=rf"step {bad}:"):
        for step in range(end):
            watch.add(losses_of(step, bad), batch_of(step))
        step = "end"
        assert watch.means()["visible"] == round(sum(range(end)) / 4 / end, 5)
    looks = [2 * CHECK_EVERY - 1, "end", "end"]
    assert waited == looks[: 3 if bad is None else bad // CHECK_EVERY + 1]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_copy_is_waited_for_on_the_device_that_makes_it(monkeypatch, is_there):
    """Which need not be the current one: an event on another would be over at once. And only if it is not over."""
    device, calls = torch.device("cuda", 1), []
    x = SimpleNamespace(device=device, to=lambda *to, **how: calls.append((*to, how)) or "copy")
    waited = [] if is_there else ["waited"]
    event = SimpleNamespace(record=calls.append, query=lambda: is_there, synchronize=lambda: calls.append("waited"))
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"stream of {device}")
    host, wait = steps.begin_copy(x)
    wait()
    assert host == "copy" and calls == [("cpu", dict(non_blocking=True)), "stream of cuda:1", *waited]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bad", [0, 3, CHECK_EVERY - 1, CHECK_EVERY, 2 * CHECK_EVERY - 1])
def test_a_bad_loss_is_found_soon_and_named(bad, value):
    watch = LossWatch(7, PATHS)
    with pytest.raises(NonFiniteLoss) as caught:
        for step in range(3 * CHECK_EVERY):
            watch.add(losses_of(step, bad, value), batch_of(step))
    assert bad <= step < bad + CHECK_EVERY
    message = str(caught.value)
    assert f"epoch 7, step {bad}:" in message
    assert f"visible {value:g}" in message and "infrared 1" in message
    named = set(re.findall(r"cam\d/\d{4}\.jpg", message))
    visible, infrared = batch_of(bad)
    assert named == {PATHS[0][i] for i in visible.tolist()} | {PATHS[1][i] for i in infrared.tolist()}


@pytest.mark.parametrize("bad", [0, 4, CHECK_EVERY, CHECK_EVERY + 4])
def test_a_bad_loss_after_the_last_look_stops_the_epochs_end(bad):
    watch = LossWatch(2, PATHS)
    end = bad + 1
    for step in range(end):
        watch.add(losses_of(step, bad), batch_of(step))
    with pytest.raises(NonFiniteLoss, match=rf"epoch 2, step {bad}:"):
        watch.means()


def test_the_first_bad_step_is_the_one_named():
    watch = LossWatch(0, PATHS)
    with pytest.raises(NonFiniteLoss, match=r"step 4:"):
        for step in range(CHECK_EVERY):
            watch.add(losses_of(step, step if step >= 4 else None), batch_of(step))


def test_the_watch_keeps_no_graph():
    watch = LossWatch(0, PATHS)
    watch.add(losses_of(0), batch_of(0))
    assert not watch.values[0].requires_grad


@pytest.mark.parametrize("bad", [None, 1, 5, CHECK_EVERY + 2])
@pytest.mark.parametrize("done", [1, 4, CHECK_EVERY, CHECK_EVERY + 1])
def test_a_watch_goes_on_where_another_was_interrupted(done, bad):
    rows = [batch_of(step) for step in range(CHECK_EVERY + 5)]
    whole, first, second = (LossWatch(1, PATHS) for _ in range(3))
    for step in range(done):
        first.add(losses_of(step), rows[step])
    second.resume(first.so_far(), rows, torch.device("cpu"))

    def end(watch, begin):
        for step in range(begin, len(rows)):
            watch.add(losses_of(step, None if bad is None or bad < done else bad), rows[step])
        return watch.means()

    outcomes = []
    for watch, begin in ((whole, 0), (second, done)):
        try:
            outcomes.append(end(watch, begin))
        except NonFiniteLoss as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1] and isinstance(outcomes[0], dict) == (bad is None or bad < done)


class Store:
    """Counts what is read of it; row ``fails`` cannot be."""

    def __init__(self, first, fails=None):
        self.images = np.arange(first, first + 50, dtype=np.uint8).repeat(2 * 1 * 3).reshape(50, 2, 1, 3)
        self.reads, self.fails = 0, fails

    def __getitem__(self, rows):
        self.reads += 1
        if self.fails in rows:
            raise OSError("cannot read the image")
        return self.images[rows]


def test_batches_come_in_order_with_their_images():
    batches = [batch_of(step) for step in range(7)]
    loaded = list(load_batches(batches, Store(0), Store(100), torch.device("cpu")))
    assert len(loaded) == 7
    for (rows, (v, r)), (rows_v, rows_r) in zip(loaded, batches, strict=True):
        assert rows[0] is rows_v and rows[1] is rows_r
        assert v.dtype == r.dtype == torch.uint8 and v.shape == r.shape == (3, 2, 1, 3)
        assert torch.equal(v[:, 0, 0, 0].long(), rows_v) and torch.equal(r[:, 1, 0, 2].long(), rows_r + 100)


def test_one_batch_is_read_ahead_and_no_more():
    visible, asked = Store(0), []

    def batches():
        for step in range(6):
            asked.append(step)
            yield batch_of(step)

    loaded = load_batches(batches(), visible, Store(100), torch.device("cpu"))
    assert asked == []
    for step in range(6):
        next(loaded)
        assert len(asked) == min(step + 2, 6)
    assert next(loaded, None) is None and visible.reads == 6


@pytest.mark.parametrize("count", [0, 1])
def test_few_batches(count):
    batches = [batch_of(step) for step in range(count)]
    assert len(list(load_batches(batches, Store(0), Store(100), torch.device("cpu")))) == count


def test_an_image_that_cannot_be_read_stops_its_batch():
    loaded = load_batches(map(batch_of, range(6)), Store(0, fails=4), Store(100), torch.device("cpu"))
    for step in range(3):
        assert next(loaded).rows[0][0] == step
    with pytest.raises(OSError, match="cannot read the image"):
        next(loaded)


def test_batches_of_a_memory_map(tmp_path):
    mapped = np.memmap(tmp_path / "images", dtype=np.uint8, mode="w+", shape=(50, 4, 2, 3))
    mapped[:] = np.arange(50, dtype=np.uint8)[:, None, None, None]
    mapped = np.memmap(tmp_path / "images", dtype=np.uint8, mode="r", shape=(50, 4, 2, 3))
    ((_, (v, _)),) = load_batches([batch_of(3)], mapped, mapped, torch.device("cpu"))
    v += 1  # a copy: neither the file nor a warning about read-only memory
    assert v[:, 0, 0, 0].tolist() == [4, 5, 4] and mapped[3, 0, 0, 0] == 3


def stores_of(seed):
    """Of 50 images of 16 x 8 each."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, 256, (2, 50, 16, 8, 3), generator=generator, dtype=torch.uint8))


def drawn(loaded, seed, **options):
    generator = torch.Generator().manual_seed(seed)
    return draw_batch(loaded, (16, 8), Augmentation(pad=1), generator, **options), generator


@pytest.mark.parametrize("local_scaling", [False, True])
@pytest.mark.parametrize("resident", [False, True])
def test_views_are_those_of_the_augmentation(seed, resident, local_scaling):
    stores, rows, augmentation = stores_of(seed), batch_of(5), Augmentation(pad=1)
    given = stores if resident else [store.numpy() for store in stores]
    (loaded,) = load_batches([rows], *given, torch.device("cpu"))
    batch, end = drawn(loaded, seed, local_scaling=local_scaling, orders=(4, 9))
    both, infrared = training_views(batch, given)
    assert both.shape == (6, 3, 16, 8) and infrared.shape == (3, 3, 16, 8)
    assert both.is_contiguous(memory_format=torch.channels_last)
    assert infrared.is_contiguous(memory_format=torch.channels_last)
    other, images = torch.Generator().manual_seed(seed), [store[r] for store, r in zip(stores, rows, strict=True)]
    plain = augmentation.visible(3, 16, 8, other, local_scaling=local_scaling)
    assert torch.equal(both[:3], make_views(images[0], plain))
    assert torch.equal(both[3:], make_views(images[0], augmentation.channel_augmented(3, 16, 8, other)))
    assert torch.equal(infrared, make_views(images[1], augmentation.infrared(3, 16, 8, other)))
    assert (both[3:, :1] == both[3:]).all()  # one channel in all three places
    for order, length in zip(batch.orders.split((4, 9)), (4, 9), strict=True):
        assert torch.equal(order, torch.randperm(length, generator=other))
    assert torch.equal(other.get_state(), end.get_state())


@pytest.mark.parametrize("local_scaling", [False, True])
@pytest.mark.parametrize("resident", [False, True])
def test_batches_take_the_same_memory_one_after_the_other(seed, resident, local_scaling):
    """Also where one has no image with local scaling, and another has two."""
    stores = stores_of(seed)
    given = stores if resident else [store.numpy() for store in stores]
    memory, places, chains = BatchMemory(torch.device("cpu")), set(), set()
    for loaded in load_batches(map(batch_of, range(12)), *given, torch.device("cpu")):
        batch, _ = drawn(loaded, seed + int(loaded.rows[0][0]), local_scaling=local_scaling, orders=(3,))
        held = memory.load(batch)
        leaves = [x for x in tree_leaves(held) if x is not None]
        places.add(tuple((x.data_ptr(), x.shape) for x in leaves))
        for x, y in zip(leaves, [x for x in tree_leaves(batch) if x is not None], strict=True):
            assert torch.equal(x, y) and x.data_ptr() != y.data_ptr()
        for x, y in zip(training_views(held, stores), training_views(batch, stores), strict=True):
            assert torch.equal(x, y)
        chains.add(int(batch.visible.table[:, Draw.SCALING].max()))
    assert len(places) == 1 and len(leaves) == 5 + 2 * (not resident) + local_scaling
    assert (-1 in chains) and (len(chains) > 2) == local_scaling


def test_optimise_takes_one_step_of_this_loss_only():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    unused = torch.nn.Parameter(torch.ones(2))
    weight.grad, unused.grad = torch.full((2,), 100.0), torch.full((2,), 100.0)
    optimise(torch.optim.SGD([weight, unused], lr=0.5), (weight**2).sum())
    assert weight.tolist() == [0.0, 0.0]  # w - 0.5 * 2 w
    assert unused.tolist() == [1.0, 1.0]  # no gradient, not a gradient of 0 that weight decay would act on


@pytest.mark.cuda
@pytest.mark.parametrize("where", ["device", "pinned"])
def test_views_on_a_gpu_are_those_of_the_host(seed, where):
    """Of a hue in sixths, below 16, the host and the GPU may round three sums by 2⁻²¹ each. That is divided by a
    deviation of 0.224, and brightness, contrast and saturation may come behind it, by 1.5 each: together 4.3e-5."""
    device, stores = torch.device("cuda"), stores_of(seed)
    images = [store.numpy() for store in stores]
    given, memory = resident(images, device, where), BatchMemory(device)
    for loaded in load_batches(map(batch_of, range(3)), *given, device):
        batch, _ = drawn(loaded, seed, local_scaling=True)
        expected = training_views(batch._replace(images=()), stores)
        for x, y in zip(training_views(memory.load(batch), given), expected, strict=True):
            assert x.is_cuda
            torch.testing.assert_close(x.cpu(), y, rtol=0, atol=5e-5)
