"""Defaults that several folders share: parameters of the paper, and a file's name."""

TEMPERATURE = 0.05
"""Divides every cosine in a contrast."""

MOMENTUM = 0.1
"""Share of a memory row that an update keeps."""

NEIGHBORS = 30
"""Of k-reciprocal sets, of propagation graphs and of the refinement's sets."""

HEIGHT, WIDTH = 288, 144
"""Pixels of the images that the network is trained with."""

REPORT = "report.html"
"""What ``salcr report`` writes to a run's folder."""
