"""The formulas of :mod:`salcr.reference` as backends, where an operator has a gradient: autograd runs them again."""
