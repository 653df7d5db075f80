"""How the operators are computed: ``<technology>/<family>.py``. Nobody outside :mod:`salcr.ops` imports from here."""
