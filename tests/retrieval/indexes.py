"""Indexes of given features, whose pictures are nowhere, and what the log says of them."""

import numpy as np

from salcr.retrieval.storage import Manifest, Storage


def index_of(folder, features, dtype="float16"):
    """``folder``, made with an index of ``features [N, D]``, all of them visible."""
    folder.mkdir()
    Storage.create(folder, Manifest("", "", 1, 1, "visible", dtype, features.shape[1]))
    add(folder, features)
    return folder


def add(folder, features):
    """Put ``features`` behind those that an index has."""
    with Storage(folder).writing() as writer:
        rows = range(writer.manifest.rows, writer.manifest.rows + len(features))
        writer.add([f"/gone/{row}.png" for row in rows], np.zeros(len(features), bool), np.asarray(features))
        writer.commit(complete=True)


def said(caplog):
    """What was said since the last time."""
    text = caplog.text
    caplog.clear()
    return text
