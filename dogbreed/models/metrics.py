"""What is measured of a classifier in each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

STAGES = ("train", "val", "test")


class Metrics(nn.Module):
    """Loss, accuracy and, but in training, top-5 accuracy and macro F1; in a test also those of each class.

    All count over the processes of a training. A module, to move to its device; no checkpoint has it.

    Args:
        num_classes: Of the labels.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({f"{stage}_metrics": _collection(stage, num_classes) for stage in STAGES})
        # Of each training batch: mean loss, which are right, how many there are. A metric's update costs more than a
        # head's step.
        self._trained: list[tuple[Tensor, Tensor, int]] = []
        self.class_accuracy = MulticlassAccuracy(num_classes, average=None)
        self.class_f1 = MulticlassF1Score(num_classes, average=None)

    def update(self, stage: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch to those of `train`, `val` or `test`.

        Args:
            stage: Which.
            loss: Mean over the batch.
            logits: (B, C).
            labels: int64 (B,).
        """
        if stage == "train":
            self._trained.append((loss, logits.argmax(dim=1) == labels, len(labels)))
            return
        with _quick_counts(logits):
            for name, metric in self.stages[f"{stage}_metrics"].items(keep_base=True):  # type: ignore[operator]
                metric.update(loss, len(labels)) if name == "loss" else metric.update(logits, labels)
            if stage == "test":
                self.class_accuracy.update(logits, labels)
                self.class_f1.update(logits, labels)

    def compute(self, stage: str) -> dict[str, Tensor]:
        """Returns `{"val/accuracy": ...}` of all batches since the last time, and begins anew."""
        metrics: Any = self.stages[f"{stage}_metrics"]
        if stage == "train" and self._trained:
            losses, right, counts = zip(*self._trained, strict=True)
            sizes = torch.tensor(counts, dtype=torch.float, device=losses[0].device)
            metrics["loss"].update(torch.stack(losses).float() @ sizes / sizes.sum(), weight=sizes.sum())
            metrics["accuracy"].update(torch.cat(right).sum() / sizes.sum(), weight=sizes.sum())
            self._trained = []
        computed: dict[str, Tensor] = metrics.compute()
        metrics.reset()
        return computed

    def of_classes(self) -> tuple[list[float], list[float]]:
        """Returns accuracy (recall) and F1 of each class over the last test, in label order."""
        return self.class_accuracy.compute().tolist(), self.class_f1.compute().tolist()

    def forget_classes(self) -> None:
        """Begins the figures of the classes anew."""
        self.class_accuracy.reset()
        self.class_f1.reset()


@contextmanager
def _quick_counts(logits: Tensor) -> Iterator[None]:
    """Lets torchmetrics count on the CPU as it does where results may differ from run to run: there they never do.

    Where they may not, it compares each label with each pair of classes, for a GPU's sake.
    """
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(strict and not logits.is_cpu, warn_only=warns)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)


def _collection(stage: str, num_classes: int) -> MetricCollection:
    metrics: dict[str, Any] = {"loss": MeanMetric(), "accuracy": MeanMetric()}
    if stage != "train":
        few = min(5, num_classes)
        metrics["accuracy"] = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        metrics["top5_accuracy"] = MulticlassAccuracy(num_classes, average="micro", top_k=few, validate_args=False)
        metrics["f1"] = MulticlassF1Score(num_classes, average="macro", validate_args=False)
    return MetricCollection(metrics, prefix=f"{stage}/", compute_groups=False)
