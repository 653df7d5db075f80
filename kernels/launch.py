"""Launch configurations of all kernels by architecture, and how many programs share a scratch.

A row of ``TABLE`` holds the blocks, warps and pipeline stages of a kernel, or of kernels that share them, from some
compute capability on: a device takes the entry of the largest capability that is not above its own, so that a GPU that
has no entry runs with what its nearest older relative uses. Capability 80 is the A100; 86, 89 and 120 have 99 KB of
shared memory a block, 90 and 100 have 227. ``ELEMENTS`` bounds a tile whose shape depends on the problem, ``BLOCK``
what a kernel that walks a row takes at a time; launchers derive the rest.

Launchers ask :func:`configuration`; the ahead-of-time tests compile what they then launch. ``python -m
benchmarks.tune`` measures alternatives on a GPU and rewrites the lines between the two markers. They are source, not
JSON beside it: who reads a kernel finds its numbers with go-to-definition, and no installation can lack them.

No launch lets the compiler fuse a multiplication and an addition, which Triton before 3.10 does unless told otherwise.
In a sum of products that lanes exchange, each lane would add the other's rounded product to its own exact one: lanes
that hold the same sum would differ in its last bit, and where several write it into one place of shared memory, chance
would choose. The largest logit less itself would not be 0, and nothing would have the bits that the interpreter gives.
The code for sm_90 has up to 13 % more instructions for it, in kernels that wait for memory, and the same products on
tensor cores; what that costs is not measured.
"""

import contextlib

import torch

SHARED_BYTES = {80: 166_912, 86: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}  # that a block can have
SCRATCH_SHARE = 0.5  # of the free memory, for all programs' arrays together
PROGRAMS_PER_SM = 16
INTERPRETED_PROGRAMS = 3
SEPARATE = dict(enable_fp_fusion=False)  # a product is rounded before it is added to

# table begins
TABLE = {
    "products.half": {
        80: dict(M=128, N=128, K=32, num_warps=8, num_stages=4),
        86: dict(M=128, N=128, K=32, num_warps=8, num_stages=3),
        90: dict(M=128, N=128, K=64, num_warps=8, num_stages=3, maxnreg=128),
        100: dict(M=128, N=128, K=64, num_warps=8, num_stages=3),
        120: dict(M=128, N=128, K=32, num_warps=8, num_stages=3),
    },
    "products.tf32": {
        80: dict(M=128, N=128, K=32, num_warps=8, num_stages=3),
    },
    "products.tf32x3": {
        80: dict(M=128, N=64, K=32, num_warps=8, num_stages=3),
        90: dict(M=128, N=64, K=32, num_warps=8, num_stages=3, maxnreg=128),
        120: dict(M=128, N=64, K=32, num_warps=8, num_stages=3),
    },
    "products.float16x3": {
        80: dict(M=128, N=64, K=32, num_warps=8, num_stages=3),
    },
    "products.norms": {
        80: dict(BLOCK=1024, num_warps=4),
    },
    "cluster_memory.losses": {
        80: dict(ELEMENTS=8192, BLOCK=128, num_warps=4),
    },
    "cluster_memory.mean": {
        80: dict(BLOCK=1024, num_warps=4),
    },
    "cluster_memory.gradient": {
        80: dict(ROWS=1024, num_warps=4),
    },
    "cluster_memory_update": {
        80: dict(SCAN=256, num_warps=4),
    },
    "instance_memory.select": {
        80: dict(BLOCK=1024, num_warps=1),
    },
    "instance_memory.neighbors": {
        80: dict(ELEMENTS=8192, BLOCK=16),
    },
    "index_sets": {
        80: dict(BLOCK=16),
    },
    "knn.products": {
        80: dict(M=128, N=128, K=32, num_warps=4, num_stages=4),
        86: dict(M=128, N=128, K=32, num_warps=4, num_stages=3),
        90: dict(M=128, N=256, K=64, num_warps=8, num_stages=4),
        100: dict(M=128, N=128, K=64, num_warps=8, num_stages=4),
        120: dict(M=128, N=128, K=32, num_warps=4, num_stages=3),
    },
    "knn.round": {
        80: dict(BLOCK=1024, num_warps=4),
    },
    "knn.narrow": {
        80: dict(ELEMENTS=2048, num_warps=4),
    },
    "knn.rescore": {
        80: dict(C=8, BLOCK=256, num_warps=4),
    },
    "knn.order": {
        80: dict(BLOCK=32, num_warps=1),
    },
    "jaccard_encodings.reciprocal": {
        80: dict(ELEMENTS=1024, num_warps=1),
    },
    "jaccard_encodings.expand": {
        80: dict(ELEMENTS=128, num_stages=1, maxnreg=96),
        90: dict(ELEMENTS=256, num_stages=1, maxnreg=96),
    },
    "jaccard_encodings.weights": {
        80: dict(E=8, BLOCK=256, num_warps=4, num_stages=1),
    },
    "jaccard_encodings.mean": {
        80: dict(ROWS=4, BLOCK=32, num_warps=1, num_stages=1),
    },
    "jaccard.rows": {
        80: dict(BLOCK=64, num_warps=1, num_stages=1),
    },
    "jaccard.pairs": {
        80: dict(COLUMNS=4, BLOCK=32, MANY=8, num_warps=1, num_stages=1),
    },
    "jaccard.order": {
        80: dict(BLOCK=32, num_warps=1),
    },
    "dbscan.pairs": {
        80: dict(BLOCK=64, num_warps=1),
    },
    "dbscan.roots": {
        80: dict(BLOCK=256, num_warps=4),
    },
    "centroids": {
        80: dict(ROWS=8, BLOCK=256, num_warps=4, num_stages=1),
    },
    "sinkhorn.rows": {
        80: dict(R=8, C=256, num_warps=2, maxnreg=80),
    },
    "sinkhorn.columns": {
        80: dict(C=4, BLOCK=512, num_warps=4),
    },
    "augmentation": {
        80: dict(BLOCK=1024, num_warps=8, num_stages=1, maxnreg=48),
    },
    "augmentation.chains": {
        80: dict(BLOCK=1024, num_warps=8, num_stages=1, maxnreg=80),
    },
    "batch_norm.blocks": {
        80: dict(ELEMENTS=4096, PROGRAMS=512, num_warps=8, num_stages=3),
    },
    "batch_norm.merge": {
        80: dict(C=16, num_warps=4),
    },
    "batch_norm.tiles": {
        80: dict(ELEMENTS=4096, num_warps=8),
    },
    "pooling.half": {
        80: dict(ELEMENTS=8192, num_warps=8, num_stages=3),
        90: dict(ELEMENTS=8192, num_warps=8, num_stages=3, maxnreg=80),
        100: dict(ELEMENTS=8192, num_warps=8, num_stages=3),
    },
    "pooling.single": {
        80: dict(ELEMENTS=4096, num_warps=8, num_stages=3),
    },
    "pooling_attention.half": {
        80: dict(ELEMENTS=8192, num_warps=8, num_stages=3),
        90: dict(ELEMENTS=8192, num_warps=8, num_stages=3, maxnreg=128),
        100: dict(ELEMENTS=8192, num_warps=8, num_stages=3),
    },
    "pooling_attention.single": {
        80: dict(ELEMENTS=4096, num_warps=8, num_stages=3),
    },
    "pooling_backward.half": {
        80: dict(ELEMENTS=2048, num_warps=8, num_stages=6),
    },
    "pooling_backward.single": {
        80: dict(ELEMENTS=4096, num_warps=16, num_stages=3),
    },
}
# table ends

INTERPRETED = {  # small, so that small tests have edges; what is not here is as on the smallest capability
    "products.half": dict(M=16, N=32, K=32, num_warps=4, num_stages=1),
    "products.tf32x3": dict(M=16, N=32, K=32, num_warps=4, num_stages=1),
    "products.float16x3": dict(M=16, N=32, K=32, num_warps=4, num_stages=1),
    "augmentation": dict(BLOCK=64, num_warps=2, num_stages=1),
    "batch_norm.blocks": dict(ELEMENTS=128, PROGRAMS=6, num_warps=4, num_stages=1),
    "batch_norm.tiles": dict(ELEMENTS=256, num_warps=4),
    "augmentation.chains": dict(BLOCK=64, num_warps=2, num_stages=1),
    "instance_memory.select": dict(BLOCK=32, num_warps=1),
    "knn.products": dict(M=16, N=32, K=16, num_warps=4, num_stages=1),
    "knn.narrow": dict(ELEMENTS=8192, num_warps=4),
    "knn.round": dict(BLOCK=16, num_warps=4),
    "knn.rescore": dict(C=8, BLOCK=16, num_warps=4),
    "jaccard.rows": dict(BLOCK=8, num_warps=1, num_stages=1),
    "jaccard.order": dict(BLOCK=8, num_warps=1),
    "products.norms": dict(BLOCK=16, num_warps=4),
    "sinkhorn.rows": dict(R=16, C=8, num_warps=8),
    "sinkhorn.columns": dict(C=4, BLOCK=1, num_warps=4),
    "pooling.half": dict(ELEMENTS=128, num_warps=4, num_stages=1),
    "pooling.single": dict(ELEMENTS=128, num_warps=4, num_stages=1),
    "pooling_attention.half": dict(ELEMENTS=128, num_warps=4, num_stages=1),
    "pooling_attention.single": dict(ELEMENTS=128, num_warps=4, num_stages=1),
    "pooling_backward.half": dict(ELEMENTS=128, num_warps=4, num_stages=1),
    "pooling_backward.single": dict(ELEMENTS=128, num_warps=4, num_stages=1),
}


def architecture(device: torch.device) -> int | None:
    """Compute capability of a GPU, such as 90; None for the CPU, on which Triton interprets kernels."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def nearest(known: dict[int, object], capability: int) -> int:
    """The largest of the ``known`` capabilities that is not above ``capability``, or else the smallest."""
    return max((key for key in known if key <= capability), default=min(known))


def configuration(name: str, device: torch.device) -> dict[str, int]:
    """The entry of ``TABLE[name]`` for ``device``, and ``SEPARATE``."""
    capability, row = architecture(device), TABLE[name]
    if capability is None:
        return (INTERPRETED.get(name) or row[min(row)]) | SEPARATE
    return row[nearest(row, capability)] | SEPARATE


def at_most_one_each(num_warps: int, entries: int) -> None:
    """Check that each thread of a program has entries of its own, in a kernel that loads entries which it also stores.

    With more threads than entries, Triton lets several threads load the same entry and one of them store it. A thread
    that loads after that store sees another number than the one that stored: threads of a program then leave a loop at
    different turns, and the program hangs.

    Raises:
        ValueError: there are fewer entries than threads.
    """
    if 32 * num_warps > entries:
        raise ValueError(f"{num_warps} warps share {entries} entries, of which each thread needs its own")


def on_device(x: torch.Tensor) -> contextlib.AbstractContextManager:
    """Launch on the device of ``x``, whatever the current one is."""
    return torch.cuda.device_of(x) if x.is_cuda else contextlib.nullcontext()


def resident_programs(rows: int, bytes_each: int, device: torch.device) -> int:
    """How many programs share ``rows``, where each has ``bytes_each`` bytes of scratch: as many as a GPU holds, unless
    their arrays would take more than ``SCRATCH_SHARE`` of the free memory."""
    if device.type != "cuda":
        return min(rows, INTERPRETED_PROGRAMS)
    resident = PROGRAMS_PER_SM * torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(rows, resident, int(SCRATCH_SHARE * free_bytes(device)) // bytes_each))


def free_bytes(device: torch.device) -> int:
    """Memory that an allocation could get: free on the device, or kept by PyTorch's allocator without use."""
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached
