"""What is measured of a classifier in each epoch."""

from __future__ import annotations

from typing import Any

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
        for name, metric in self.stages[f"{stage}_metrics"].items(keep_base=True):  # type: ignore[operator]
            metric.update(loss, len(labels)) if name == "loss" else metric.update(logits, labels)
        if stage == "test":
            self.class_accuracy.update(logits, labels)
            self.class_f1.update(logits, labels)

    def compute(self, stage: str) -> dict[str, Tensor]:
        """Returns `{"val/accuracy": ...}` of all batches since the last time, and begins anew."""
        metrics: Any = self.stages[f"{stage}_metrics"]
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


def _collection(stage: str, num_classes: int) -> MetricCollection:
    quick: Any = {"num_classes": num_classes, "validate_args": False}  # checks cost more than a head's step
    metrics: dict[str, Any] = {"accuracy": MulticlassAccuracy(**quick, average="micro")}
    if stage != "train":
        metrics["top5_accuracy"] = MulticlassAccuracy(**quick, average="micro", top_k=min(5, num_classes))
        metrics["f1"] = MulticlassF1Score(**quick, average="macro")
    return MetricCollection({"loss": MeanMetric(), **metrics}, prefix=f"{stage}/", compute_groups=False)
