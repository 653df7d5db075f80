"""Label features without labels: ``python examples/label_features.py --features features.npz --out labels.csv``.

``features.npz`` holds an array ``[N, D]``, of any network. Without one, features of 60 people are drawn by chance.
"""

import argparse
import csv

import numpy as np
import torch

import salcr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", help="an .npz file")
    parser.add_argument("--name", default="features", help="of the array in it")
    parser.add_argument("--eps", type=float, default=0.6, help="largest Jaccard distance of neighbours")
    parser.add_argument("--out", default="labels.csv")
    options = parser.parse_args()

    if options.features:
        features = torch.from_numpy(np.load(options.features)[options.name]).float()
    else:
        torch.manual_seed(0)
        people = torch.randn(60, 256)
        features = people.repeat_interleave(20, dim=0) + 0.5 * torch.randn(1200, 256)
    if torch.cuda.is_available():
        features = features.cuda()  # the operators follow the tensor

    labels = salcr.cluster(features, eps=options.eps, min_samples=4, k1=30, k2=6).tolist()

    with open(options.out, "w", newline="") as file:
        csv.writer(file).writerows([("row", "label"), *enumerate(labels)])
    print(
        f"{len(labels)} features: {max(labels) + 1} clusters, {labels.count(-1)} left out as noise; see {options.out}"
    )


if __name__ == "__main__":
    main()
