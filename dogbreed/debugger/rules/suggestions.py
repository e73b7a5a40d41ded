"""Suggestions that start from the run's own settings."""

from __future__ import annotations

from dogbreed.debugger.findings import Suggestion
from dogbreed.debugger.rules.base import Settings

PRETRAINED_WEIGHTS = Suggestion("start from pretrained weights", "model.weights", "hub")


def learning_rate(settings: Settings | None, factor: float) -> Suggestion:
    """Returns the run's learning rate times `factor`; 0.001 if the rate is unknown or outside 1e-6 to 1."""
    current = (settings or {}).get("lr")
    action = "lower the learning rate" if factor < 1 else "raise the learning rate"
    usable = isinstance(current, (int, float)) and 1e-6 <= current <= 1.0
    return Suggestion(action, "lr", float(current * factor) if usable and current else 0.001)


def epochs(count: int) -> Suggestion:
    """Returns a training of `count` epochs, at least 1."""
    return Suggestion("stop at the best epoch", "epochs", max(1, count))


def weight_decay(settings: Settings | None) -> Suggestion:
    """Returns ten times the run's weight decay, at most 0.3; 0.01 if it had none."""
    current = (settings or {}).get("weight_decay")
    more = min(0.3, current * 10) if isinstance(current, (int, float)) and current > 0 else 0.01
    return Suggestion("regularize more strongly", "weight_decay", float(more))


def batch_size(settings: Settings | None, factor: float) -> Suggestion:
    """Returns the run's batch size times `factor`; an unknown one counts as 32."""
    current = (settings or {}).get("batch_size")
    size = max(1, int((current if isinstance(current, int) and current > 0 else 32) * factor))
    return Suggestion("use larger batches" if factor > 1 else "use smaller batches", "batch_size", size)


def num_workers(settings: Settings | None) -> Suggestion:
    """Returns one data loader worker per core, or twice the run's number if it had as many already."""
    cores = max(1, int((settings or {}).get("cores") or 2))
    current = (settings or {}).get("num_workers")
    more = cores if not isinstance(current, int) or current < cores else 2 * current
    return Suggestion("load images with more workers", "data.num_workers", more)


def longer_or_full(settings: Settings | None) -> Suggestion:
    """Returns training the whole network, or twice the epochs if the run did that already."""
    known = settings or {}
    if known.get("finetune") != "full":
        return Suggestion("train the whole network", "finetune", "full")
    return Suggestion("train longer", "epochs", 2 * (known.get("epochs") or 10))
