"""Data sets as tables of images, their evaluation protocols, and the image store.

The loaders read the published folder layouts of SYSU-MM01, RegDB and LLCM;
:mod:`salcr.data.synthetic` renders the same ones.
"""

from salcr.data.check import check_dataset
from salcr.data.llcm import load_llcm
from salcr.data.load import load_dataset
from salcr.data.records import Dataset, Protocol, Records, Trial
from salcr.data.regdb import load_regdb
from salcr.data.store import open_store
from salcr.data.sysu import load_sysu

__all__ = [
    "Dataset",
    "Protocol",
    "Records",
    "Trial",
    "check_dataset",
    "load_dataset",
    "load_llcm",
    "load_regdb",
    "load_sysu",
    "open_store",
]
