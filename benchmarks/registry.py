"""What is measured: the cases of every family, at sizes from SPEC 5 and 6.

:class:`benchmarks.case.Case` says what a case is; a file of `benchmarks/cases` holds the cases of a family.
"""

from benchmarks.cases import association, memories, neighbors, pooling, pseudo_labels, retrieval, stage_two

FAMILIES = (
    retrieval,
    neighbors,
    memories,
    pseudo_labels,
    association,
    pooling,
    stage_two,
)
CASES = tuple(case for family in FAMILIES for case in family.CASES)
