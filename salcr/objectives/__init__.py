"""The paper's three modules: DAGI (association, global loss), FGSAL (part losses), GPCR (collaborative refinement)."""

from salcr.objectives.association import Association, association_named, register_association
from salcr.objectives.dagi import CrossLabels, GlobalObjective, associate
from salcr.objectives.fgsal import PartObjective, PartQueries
from salcr.objectives.gpcr import RefinementObjective

__all__ = [
    "Association",
    "CrossLabels",
    "GlobalObjective",
    "PartObjective",
    "PartQueries",
    "RefinementObjective",
    "associate",
    "association_named",
    "register_association",
]
