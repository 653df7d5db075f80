"""What a CUDA graph does, on the CPU: the operators of a step, recorded once and run again on the same memory.

As a capture does, a recording leaves everything as it was, and refuses what asks for a value of a tensor. What a step
takes from Python it holds fast: a number that changes from step to step makes a replay differ from a call.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ASKING = {"_local_scalar_dense", "equal", "is_nonzero", "item", "nonzero"}


def tensors(x):
    return [leaf for leaf in tree_leaves(x) if isinstance(leaf, torch.Tensor)]


def storage(x):
    return x.untyped_storage().data_ptr()


class Recording(TorchDispatchMode):
    """The operators that run in it; ``undo`` takes back what they did to memory that was there before."""

    def __init__(self):
        super().__init__()
        self.calls, self.made, self.before = [], {}, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        if function.namespace == "profiler":
            return function(*args, **kwargs)
        if name in ASKING:
            raise RuntimeError(f"a step asks for a value: {name}")
        for x in tensors((args, kwargs)):
            if storage(x) not in self.made:
                self.before.setdefault(self.place(x), (x.detach(), x.detach().clone()))
        found = function(*args, **kwargs)
        known = {storage(x) for x in tensors((args, kwargs))}
        for n, x in enumerate(tensors(found)):
            if storage(x) not in known:
                self.made[storage(x)] = (len(self.calls), n)
        self.calls.append((function, args, kwargs, found))
        return found

    def undo(self):
        with torch.no_grad():
            for x, values in reversed(self.before.values()):
                x.copy_(values)

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, found in self.calls:
            known = {storage(x) for x in tensors((args, kwargs))}
            if not function._schema.is_mutable and all(storage(x) in known for x in tensors(found)):
                continue  # a view
            again = tensors(function(*args, **kwargs))
            for x, y in zip(tensors(found), again, strict=True):
                if storage(x) not in known:
                    x.copy_(y)

    def work(self):
        """The operators with their arguments: numbers, and of tensors which memory it is and how it is seen."""
        return [
            (str(function), *tree_map_only(torch.Tensor, self.place, [args, kwargs]))
            for function, args, kwargs, *_ in self.calls
        ]

    def place(self, x):
        """Of memory that was there its address, of other memory the call that made it."""
        where = self.made.get(storage(x), storage(x))
        return where, x.storage_offset(), tuple(x.shape), x.stride(), x.dtype


class Recorder:
    """In place of :class:`salcr.engine.step_graph.CudaRecorder`, on the CPU."""

    def __init__(self):
        self.recordings, self.replays = [], 0

    def called(self, step):
        return step()

    def record(self, step, optimiser):
        optimiser.zero_grad(set_to_none=True)
        recording = Recording()
        try:
            with recording:
                losses = step()
        finally:
            recording.undo()
        self.recordings.append(recording)

        def replayed():
            self.replays += 1
            recording.replay()
            return losses

        return replayed
