"""Classification metrics of one stage, counted over batches of any size and over all processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

TOP_K = 5
"""An image counts as right for top-k accuracy if its class is among this many most probable ones."""

LOGGED = {"train": ("loss", "accuracy"), "val": ("loss", "accuracy", "top5_accuracy", "f1")}
LOGGED["test"] = LOGGED["val"]
"""Metrics that each stage logs, as `train/loss` and so on."""


class ClassificationMetrics(Metric):
    """Mean loss, accuracy, top-5 accuracy, macro F1, and accuracy and F1 of each class.

    Counts with `index_add_`, which stays fast under `torch.use_deterministic_algorithms`, where torchmetrics compares
    each image with every pair of classes.
    """

    full_state_update = False
    loss_sum: Tensor
    top_k_hits: Tensor
    hits: Tensor
    predicted: Tensor
    present: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("loss_sum", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("top_k_hits", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        for name in ("hits", "predicted", "present"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            loss: Mean loss over the batch, scalar.
            logits: (B, C); B may be 0.
            labels: int64 (B,).
        """
        best = logits.argmax(dim=1)
        top_k = logits.topk(min(TOP_K, self.num_classes), dim=1).indices
        self.loss_sum += loss.float() * len(labels)
        self.top_k_hits += (top_k == labels[:, None]).sum()
        self.hits.index_add_(0, labels, (best == labels).long())
        self.predicted.index_add_(0, best, torch.ones_like(best))
        self.present.index_add_(0, labels, torch.ones_like(labels))

    def compute(self) -> dict[str, Tensor]:
        """Returns the scalars `loss`, `accuracy`, `top5_accuracy` and `f1`, and `class_accuracy` and `class_f1` (C,).

        `f1` is the macro average over the classes that occur among labels or predictions. The accuracy (recall) and F1
        of a class without images are 0.
        """
        num_images = self.present.sum()
        occurs = (self.present + self.predicted) > 0
        class_f1 = 2 * self.hits / (self.present + self.predicted).clamp_min(1)
        return {
            "loss": self.loss_sum / num_images,
            "accuracy": self.hits.sum() / num_images,
            "top5_accuracy": self.top_k_hits / num_images,
            "f1": class_f1[occurs].mean(),
            "class_accuracy": self.hits / self.present.clamp_min(1),
            "class_f1": class_f1,
        }
