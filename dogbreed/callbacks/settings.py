"""The settings of weight averaging, each declared once: type, default, bounds, meaning. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from dogbreed.system.settings import setting


@dataclass
class AveragingSettings:
    """Averages of the weights over many steps."""

    averaging: str | None = setting(
        None,
        "Validate, keep and serve an average of the weights over many steps: `ema` is exponential, `swa` uniform.",
        choices=("ema", "swa"),
    )
    averaging_decay: float = setting(
        0.999,
        "Share of the average that is kept at each step, for `averaging=ema`; smaller at the start.",
        low=0,
        high=1,
    )
    averaging_start: float | None = setting(
        None, "Share of the steps after which averaging starts; null is 0 for ema, 0.75 for swa.", low=0, high=1
    )
