"""A module in the place of faiss, for what is asked of it here: cells, files, and calls with addresses on a GPU.

The search is exact within the cells that are probed. What a GPU build is told is kept in ``calls``; the addresses it
is given are of memory on the host.
"""

import ctypes
import io
import types

import numpy as np


class _Cells:
    def __init__(self, width, cells, metric):
        self.d, self.nlist, self.metric_type, self.ntotal, self.nprobe = width, cells, metric, 0, 1
        self.cp = types.SimpleNamespace()
        self.centroids, self.rows, self.cell = None, np.empty((0, width), np.float32), np.empty(0, np.int64)

    def train(self, rows):
        assert rows.dtype == np.float32 and rows.shape[1] == self.d and len(rows) >= self.nlist
        self.centroids = rows[:: len(rows) // self.nlist][: self.nlist].copy()

    def add(self, rows):
        assert rows.dtype == np.float32 and rows.shape[1] == self.d
        self.cell = np.concatenate([self.cell, self._scores(rows, self.centroids).argmax(1)])
        self.rows = np.concatenate([self.rows, rows])
        self.ntotal = len(self.rows)

    def search(self, queries, k):
        probed = (-self._scores(queries, self.centroids)).argsort(1)[:, : self.nprobe]
        scores = self._scores(queries, self.rows)
        scores[~(probed[:, :, None] == self.cell).any(1)] = -np.inf
        found = (-scores).argsort(1, kind="stable")[:, :k]
        found = np.pad(found, ((0, 0), (0, k - found.shape[1])))
        scores = np.take_along_axis(scores, found, 1)
        found[scores == -np.inf] = -1
        return (scores if self.metric_type == METRIC_INNER_PRODUCT else -scores).astype(np.float32), found

    def _scores(self, queries, rows):
        products = queries.astype(np.float64) @ rows.T
        if self.metric_type == METRIC_INNER_PRODUCT:
            return products
        return 2 * products - np.square(queries).sum(1)[:, None] - np.square(rows).sum(1)


class _OnHost(_Cells):
    def __init__(self, quantizer, width, cells, *rest):
        assert quantizer == (width, rest[-1])
        super().__init__(width, cells, rest[-1])


class GpuIndexIVFFlat(_Cells):
    def __init__(self, resources, width, cells, metric, config):
        super().__init__(width, cells, metric)
        self.told = [("stream", *resources.stream), ("device", config.device)]
        calls.append(self)

    def train_c(self, count, rows):
        self.told.append(("train", count, rows))
        self.train(_at(rows, count, self.d))

    def add_c(self, count, rows):
        self.told.append(("add", count, rows))
        self.add(_at(rows, count, self.d))

    def search_c(self, count, queries, k, scores, indices):
        self.told.append(("search", count, queries, k, scores, indices))
        found = self.search(_at(queries, count, self.d), k)
        _at(scores, count, k)[:], _at(indices, count, k)[:] = found


class StandardGpuResources:
    def setDefaultStream(self, device, stream):
        self.stream = device, stream


def index_cpu_to_gpu(resources, device, index):
    """Cells with the same rows, of which it is told where they are."""
    assert isinstance(resources, StandardGpuResources)
    copy = GpuIndexIVFFlat.__new__(GpuIndexIVFFlat)
    copy.__dict__.update(vars(index), told=[("device", device)])
    calls.append(copy)
    return copy


def _at(place, *shape):
    kind, address = place
    type_ = {"float": ctypes.c_float, "idx_t": ctypes.c_int64}[kind]
    size = int(np.prod(shape))
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(type_)), (size,)).reshape(shape)


def write_index(index, path):
    """The head, then 8 bytes and an element's byte each a row, as long as faiss's."""
    head = dict(metric=np.int64(index.metric_type), centroids=index.centroids, rows=index.rows, cell=index.cell)
    with open(path, "wb") as file:
        np.savez(file, **head)
        file.write(bytes(index.ntotal * (index.d + 8)))


def read_index(path, flags=0):
    reads.append(flags)
    with open(path, "rb") as file:
        content = file.read()
    end = content.rindex(b"PK\x05\x06") + 22  # of the archive, before what only fills the file
    found = np.load(io.BytesIO(content[:end]))
    index = _Cells(found["rows"].shape[1], len(found["centroids"]), int(found["metric"]))
    index.centroids, index.rows, index.cell = found["centroids"], found["rows"], found["cell"]
    index.ntotal = len(index.rows)
    return index


METRIC_INNER_PRODUCT, METRIC_L2 = 0, 1
IO_FLAG_MMAP, IO_FLAG_READ_ONLY = 1, 2
calls: list[GpuIndexIVFFlat] = []
reads: list[int] = []


def make(*, gpus: int = 0) -> types.ModuleType:
    """One to be put into ``sys.modules``, of a build for GPUs if there are some."""
    module = types.ModuleType("faiss")
    module.__dict__.update(
        METRIC_INNER_PRODUCT=METRIC_INNER_PRODUCT,
        METRIC_L2=METRIC_L2,
        IO_FLAG_MMAP=IO_FLAG_MMAP,
        IO_FLAG_READ_ONLY=IO_FLAG_READ_ONLY,
        ScalarQuantizer=types.SimpleNamespace(QT_8bit=0),
        IndexFlat=lambda width, metric: (width, metric),
        IndexIVFFlat=_OnHost,
        IndexIVFScalarQuantizer=_OnHost,
        omp_set_num_threads=lambda count: None,
        write_index=write_index,
        read_index=read_index,
    )
    calls.clear()
    reads.clear()
    if gpus:
        module.__dict__.update(
            get_num_gpus=lambda: gpus,
            StandardGpuResources=StandardGpuResources,
            GpuIndexIVFFlatConfig=types.SimpleNamespace,
            GpuIndexIVFFlat=GpuIndexIVFFlat,
            index_cpu_to_gpu=index_cpu_to_gpu,
            cast_integer_to_float_ptr=lambda address: ("float", address),
            cast_integer_to_idx_t_ptr=lambda address: ("idx_t", address),
            cast_integer_to_cudastream_t=lambda handle: ("stream", handle),
        )
    return module
