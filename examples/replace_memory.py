"""Replace the memory of a training loop: the same losses from plain PyTorch and from salcr, step by step.

Cluster Contrast in two ways on a toy network: as formulas, and with ``salcr.nn.ClusterMemory``, whose contrast and
update are fused. The loop around them is the same.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

from salcr.nn import ClusterMemory


class PlainMemory:
    """What the loop had before."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = F.normalize(rows, dim=1)

    def contrast(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.normalize(features, dim=1) @ self.rows.T / 0.05, targets)

    @torch.no_grad()
    def update_(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        rows = self.rows.clone()
        for x, y in zip(F.normalize(features, dim=1), targets, strict=True):
            rows[y] = F.normalize(0.1 * rows[y] + 0.9 * x, dim=0)
        self.rows = rows


def train(kind: type, steps: int) -> list[float]:
    """The losses of a few steps on random images of 16 classes."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 16, 128))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    images, labels = torch.rand(64, 3, 32, 16), torch.arange(64) % 16
    with torch.no_grad():
        memory = kind(torch.stack([network(images[labels == label]).mean(0) for label in range(16)]))
    losses = []
    for _ in range(steps):
        features = network(images)
        loss = memory.contrast(features, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        memory.update_(features, labels)
        losses.append(loss.item())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    steps = parser.parse_args().steps
    plain, fused = train(PlainMemory, steps), train(ClusterMemory, steps)
    print("step   plain PyTorch   salcr")
    for step, (a, b) in enumerate(zip(plain, fused, strict=True)):
        print(f"{step:4}   {a:13.6f}   {b:.6f}")
    torch.testing.assert_close(torch.tensor(fused), torch.tensor(plain), rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main()
