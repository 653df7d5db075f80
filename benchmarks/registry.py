"""What is measured: the cases of every file of ``benchmarks/cases``, at sizes from SPEC 5 and 6.

:class:`benchmarks.case.Case` says what a case is; a file holds the cases of a family in its tuple ``CASES``.
"""

import importlib
import pkgutil

from benchmarks import cases

FAMILIES = [importlib.import_module(f"{cases.__name__}.{found.name}") for found in pkgutil.iter_modules(cases.__path__)]
CASES = tuple(case for family in FAMILIES for case in family.CASES)
