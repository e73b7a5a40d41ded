"""The override a finding suggests, worked out from what the run was started with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def learning_rate(settings: Mapping[str, Any] | None, factor: float) -> str:
    """Returns `lr=...`: the run's learning rate times `factor`, 0.001 where that is unknown or beyond all reason."""
    current = (settings or {}).get("lr")
    # A rate that is beyond all reason is not worth dividing by ten many times: come back to where networks train.
    sound = isinstance(current, (int, float)) and 1e-6 <= current <= 1.0
    return f"lr={current * factor if sound and current else 0.001:.3g}"


def epochs(count: int) -> str:
    """Returns `epochs=...`, at least 1."""
    return f"epochs={max(1, count)}"


def weight_decay(settings: Mapping[str, Any] | None) -> str:
    """Returns `weight_decay=...`: ten times the run's, 0.01 where it had none, never above 0.3."""
    current = (settings or {}).get("weight_decay")
    more = min(0.3, current * 10) if isinstance(current, (int, float)) and current > 0 else 0.01
    return f"weight_decay={more:.3g}"


def batch_size(settings: Mapping[str, Any] | None, factor: float) -> str:
    """Returns `batch_size=...`: the run's times `factor`, 32 times `factor` where it is unknown."""
    current = (settings or {}).get("batch_size")
    return f"batch_size={max(1, int((current if isinstance(current, int) and current > 0 else 32) * factor))}"


def num_workers(settings: Mapping[str, Any] | None) -> str:
    """Returns `data.num_workers=...`: as many as the job has cores, twice as many where it had that already."""
    cores = max(1, int((settings or {}).get("cores") or 2))
    current = (settings or {}).get("num_workers")
    more = cores if not isinstance(current, int) or current < cores else 2 * current
    return f"data.num_workers={more}"
