"""Learning-rate schedules: pure functions of the optimizer step, as shares of the peak learning rate.

`conf/scheduler` names one by `_target_`; a schedule of one's own needs the same three arguments.
"""

from __future__ import annotations

import math


def cosine(step: int, total_steps: int, steps_per_epoch: int, *, warmup: float = 0.05, floor: float = 0.0) -> float:
    """Returns a linear rise over the first `warmup` share of all steps, then half a cosine down to `floor`.

    Loshchilov and Hutter, SGDR (ICLR 2017), one cycle; the warm-up is that of Goyal et al. (2017).
    """
    rise = warmup * total_steps
    if step < rise:
        return (step + 1) / (rise + 1)
    progress = min(1.0, (step - rise) / max(1.0, total_steps - rise))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def step(step: int, total_steps: int, steps_per_epoch: int, *, every_epochs: int = 2, factor: float = 0.1) -> float:
    """Returns `factor` to the power of the number of times that `every_epochs` epochs have passed."""
    return factor ** (step // (every_epochs * steps_per_epoch))


def constant(step: int, total_steps: int, steps_per_epoch: int) -> float:
    """Returns 1 at every step."""
    return 1.0
