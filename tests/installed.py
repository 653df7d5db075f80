"""``python tests/installed.py``: an installed wheel works, with its extension, kernels, presets and command line."""

import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

import salcr
from salcr import ops
from salcr.engine import PRESETS, load_config

HERE = Path(__file__).resolve().parents[1]


def main() -> None:
    assert not Path(salcr.__file__).is_relative_to(HERE / "salcr"), f"not the wheel: {salcr.__file__}"
    assert version("salcr") == salcr.__version__
    for name in ("salcr._C", "salcr.kernels.launch", "salcr.cuda_sources"):
        assert find_spec(name), f"{name} is not in the wheel"
    assert all(load_config(preset=name) for name in PRESETS)
    angles = torch.tensor([0.00, 0.01, 0.02, 0.03, 1.00, 1.01, 1.02, 1.03])
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert ops.cluster(features, eps=0.6, k1=4, k2=2, impl="cpp").tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    command = [str(Path(sys.executable).with_name("salcr")), "--version"]
    assert salcr.__version__ in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    print(f"salcr {salcr.__version__} works from {Path(salcr.__file__).parent}")


if __name__ == "__main__":
    main()
