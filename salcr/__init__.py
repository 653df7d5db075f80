"""salcr: unsupervised visible-infrared person re-identification (SALCR, IJCV 2025) with accelerated operators.

``salcr.ops`` holds the operators, ``salcr.reference`` the same in plain PyTorch, ``salcr.nn`` modules over them.
"""

__version__ = "0.1.0"
