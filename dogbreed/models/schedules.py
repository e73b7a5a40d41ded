"""Learning-rate schedules: pure functions of the optimizer step, as shares of the peak learning rate.

`conf/scheduler` names one by `_target_`; a schedule of one's own needs the same three arguments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.utils import get_method
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dogbreed.errors import UserError

if TYPE_CHECKING:
    import pytorch_lightning as pl


def by_step(optimizer: Optimizer, settings: Mapping[str, Any], trainer: pl.Trainer) -> LambdaLR | None:
    """Returns the schedule that `settings` name by `_target_`, with its own arguments; None where the rate is constant.

    To set a head's rate to what it was already would take a fiftieth of its step.

    Raises:
        UserError: nothing bounds the number of steps, of which a schedule is a function.
    """
    arguments = dict(settings)
    schedule = get_method(arguments.pop("_target_", "dogbreed.models.schedules.constant"))
    if schedule is constant:
        return None
    if math.isinf(trainer.estimated_stepping_batches):
        raise UserError(f"scheduler={schedule.__name__} needs max_epochs or max_steps")
    total_steps = max(1, int(trainer.estimated_stepping_batches))
    per_epoch = max(1, total_steps // max(1, trainer.max_epochs or 1))
    return LambdaLR(optimizer, partial(schedule, total_steps=total_steps, steps_per_epoch=per_epoch, **arguments))


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
