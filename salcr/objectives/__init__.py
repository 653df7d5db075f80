"""The paper's three modules: DAGI (association, global loss), FGSAL (part losses), GPCR (collaborative refinement)."""

from salcr.objectives.dagi import ASSOCIATIONS, CrossLabels, GlobalObjective, associate
from salcr.objectives.fgsal import PartObjective, PartQueries
from salcr.objectives.gpcr import RefinementObjective

__all__ = [
    "ASSOCIATIONS",
    "CrossLabels",
    "GlobalObjective",
    "PartObjective",
    "PartQueries",
    "RefinementObjective",
    "associate",
]
