"""Computes learning curves of heads on real features: the table that `benchmarks.search` searches.

    python -m benchmarks.curves FEATURES EPOCHS OUT.csv

FEATURES is a folder of cached features (`outputs/.features/KEY`) of the images in ../shared/data. For every optimizer
and batch size of conf/search 25 pairs of learning rate (1e-5 to 1) and weight decay (1e-6 to 1e-1) are drawn from a
Sobol sequence, and a head is trained with each for EPOCHS epochs with the cosine schedule, as in `finetune=head`.
A row contains the configuration, and validation loss and accuracy after each epoch.
"""

from __future__ import annotations

import csv
import itertools
import math
import sys
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dogbreed.models import schedules

SHARED = Path(__file__).resolve().parents[2] / "shared"
OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}
BATCH_SIZES = ("16", "32", "64", "128")
PER_CELL = 25
COLUMNS = ("optimizer", "batch_size", "lr", "weight_decay")
Split = tuple[Tensor, Tensor]


def read_split(features: Path, split: str) -> Split:
    """Returns features (N, D) and labels (N,) of a split, its images in the order of their keys."""
    folders = sorted(folder.name for folder in (SHARED / "data" / split).iterdir())
    keys = sorted(f"{path.parent.name}/{path.name}" for path in (SHARED / "data" / split).glob("*/*.jpg"))
    labels = torch.tensor([folders.index(key.partition("/")[0]) for key in keys])
    return torch.from_numpy(np.load(features / f"{split}.npy")), labels


def configurations() -> list[tuple[str, ...]]:
    """Returns the configurations to train, a value for each of COLUMNS."""
    cells = list(itertools.product(OPTIMIZERS, BATCH_SIZES)) * PER_CELL
    points = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(len(cells)).tolist()
    return [
        (optimizer, batch_size, f"{10 ** (5 * lr - 5):.4g}", f"{10 ** (5 * decay - 6):.4g}")
        for (optimizer, batch_size), (lr, decay) in zip(cells, points, strict=True)
    ]


def curve(config: tuple[str, ...], epochs: int, train: Split, valid: Split) -> list[str]:
    """Returns the validation losses after each epoch, then the accuracies."""
    torch.manual_seed(7)
    optimizer_name, (batch_size, lr, decay) = config[0], map(float, config[1:])
    head = nn.Linear(train[0].shape[1], int(train[1].max()) + 1)
    loss = nn.CrossEntropyLoss()
    optimizer = OPTIMIZERS[optimizer_name](head.parameters(), lr=lr, weight_decay=decay, fused=True)
    per_epoch, step = math.ceil(len(train[0]) / batch_size), 0
    losses, accuracies = [], []
    for _ in range(epochs):
        for rows in torch.randperm(len(train[0])).split(int(batch_size)):
            optimizer.param_groups[0]["lr"] = lr * schedules.cosine(step, epochs * per_epoch, per_epoch)
            optimizer.zero_grad()
            loss(head(train[0][rows]), train[1][rows]).backward()
            optimizer.step()
            step += 1
        with torch.no_grad():
            logits = head(valid[0])
            losses.append(f"{loss(logits, valid[1]):.4f}")
            accuracies.append(f"{(logits.argmax(1) == valid[1]).float().mean():.4f}")
    return [*losses, *accuracies]


def main(features: Path, epochs: int, out: Path) -> None:
    torch.set_num_threads(1)
    task = partial(curve, epochs=epochs, train=read_split(features, "train"), valid=read_split(features, "valid"))
    with out.open("w", newline="") as file, Pool(3) as pool:
        writer = csv.writer(file)
        metrics = [f"val/{name} {epoch}" for name in ("loss", "accuracy") for epoch in range(1, epochs + 1)]
        writer.writerow([*COLUMNS, *metrics])
        configs = configurations()
        for config, values in zip(configs, pool.imap(task, configs), strict=True):
            writer.writerow([*config, *values])
            file.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
