"""Data sets as tables of images, their evaluation protocols, and the image store.

One file a data set ends in its :class:`DatasetSpec`; ``DATASETS`` holds them by name. :mod:`salcr.data.synthetic`
renders the same folder layouts that the loaders read.
"""

from salcr.data.check import check_dataset
from salcr.data.folder import load_folder
from salcr.data.llcm import load_llcm
from salcr.data.records import Dataset, Protocol, Records, Trial
from salcr.data.regdb import load_regdb
from salcr.data.registry import DATASETS, load_dataset, register
from salcr.data.spec import DatasetSpec
from salcr.data.store import open_store
from salcr.data.sysu import load_sysu

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetSpec",
    "Protocol",
    "Records",
    "Trial",
    "check_dataset",
    "load_dataset",
    "load_folder",
    "load_llcm",
    "load_regdb",
    "load_sysu",
    "open_store",
    "register",
]
