"""What a training, alone or in a group, imports on its way; imported by the process that those of tests fork from."""

import numba  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch._dynamo
import torch.distributed.launcher.api  # noqa: F401

from salcr import cli  # noqa: F401
from salcr.engine import train  # noqa: F401
from tests import forked  # noqa: F401
