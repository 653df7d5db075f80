"""What is measured: the cases of every file of ``benchmarks/cases``, at sizes of real runs.

:class:`benchmarks.case.Case` says what a case is; a file holds the cases of a family in its tuple ``CASES``. What needs
more than the operators do has a file of its own, which is left out where something it needs is not installed.
"""

import importlib
import pkgutil

from benchmarks import cases
from benchmarks.measure import reason

FAMILIES, LEFT_OUT = [], {}  # modules; name of a file → why it is not among them
for found in pkgutil.iter_modules(cases.__path__):
    try:
        FAMILIES.append(importlib.import_module(f"{cases.__name__}.{found.name}"))
    except ModuleNotFoundError as error:
        if "missing" not in reason(error):
            raise
        LEFT_OUT[found.name] = reason(error)["missing"]
CASES = tuple(case for family in FAMILIES for case in family.CASES)
