"""Classification metrics equal manual counts and torchmetrics, for batches of any size."""

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from dogbreed.models.metrics import ClassificationMetrics

SIZES = (5, 3, 0, 1)
NUM_CLASSES = 7


def batches():
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        logits = torch.randn(size, NUM_CLASSES, generator=generator)
        yield torch.rand((), generator=generator), logits, torch.arange(size) % 4  # three classes never occur


def test_compute_equals_torchmetrics_and_reset_starts_again():
    metrics = ClassificationMetrics(NUM_CLASSES)
    logits, labels = (torch.cat(parts) for parts in list(zip(*batches(), strict=True))[1:])
    for _ in range(2):
        for batch in batches():
            metrics.update(*batch)
        scores = metrics.compute()
        metrics.reset()
        loss = sum(loss.item() * size for size, (loss, *_) in zip(SIZES, batches(), strict=True)) / sum(SIZES)
        assert scores["loss"].item() == pytest.approx(loss)
        for name, metric in {
            "accuracy": MulticlassAccuracy(NUM_CLASSES, average="micro"),
            "top5_accuracy": MulticlassAccuracy(NUM_CLASSES, average="micro", top_k=5),
            "f1": MulticlassF1Score(NUM_CLASSES, average="macro"),
            "class_accuracy": MulticlassAccuracy(NUM_CLASSES, average=None),
            "class_f1": MulticlassF1Score(NUM_CLASSES, average=None),
        }.items():
            torch.testing.assert_close(scores[name], metric(logits, labels), msg=name)


@pytest.mark.parametrize("strict", [True, False])
def test_update_leaves_deterministic_mode_unchanged(strict):
    torch.use_deterministic_algorithms(strict, warn_only=True)
    try:
        ClassificationMetrics(NUM_CLASSES).update(*next(batches()))
        assert torch.are_deterministic_algorithms_enabled() == strict
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
