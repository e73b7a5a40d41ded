"""Learning-rate schedules: pure functions of the optimizer step that return a factor of the peak learning rate.

`conf/scheduler` selects one by `_target_`. A custom schedule takes the same three arguments first.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dogbreed.errors import UserError
from dogbreed.models.hyperparameters import CosineSettings, StepSettings
from dogbreed.models.targets import create, load_target

if TYPE_CHECKING:
    import pytorch_lightning as pl


def create_scheduler(optimizer: Optimizer, settings: Mapping[str, Any], trainer: pl.Trainer) -> LambdaLR | None:
    """Returns a scheduler to be stepped after each optimizer step, None for a constant learning rate.

    Args:
        optimizer: The optimizer, with the peak learning rate of each parameter group.
        settings: `{"_target_": "dogbreed.models.schedules.cosine", ...}` with further arguments of the schedule; {} for
            a constant rate.
        trainer: Gives the number of steps.

    Raises:
        UserError: The target is not a schedule, or the number of steps is unbounded.
    """
    arguments = dict(settings)
    target = arguments.pop("_target_", "dogbreed.models.schedules.constant")
    schedule = load_target(target)
    if schedule is constant:
        return None
    if not inspect.isfunction(schedule) or list(inspect.signature(schedule).parameters)[:3] != _ARGUMENTS:
        raise UserError(f"scheduler._target_={target} must be a function of {', '.join(_ARGUMENTS)}")
    if math.isinf(trainer.estimated_stepping_batches):
        raise UserError(f"scheduler={schedule.__name__} needs max_epochs or max_steps")
    total_steps = max(1, int(trainer.estimated_stepping_batches))
    if math.isinf(trainer.num_training_batches):
        trainer.fit_loop.setup_data()  # with max_steps alone, Lightning has not counted the batches yet
    num_batches = min(trainer.num_training_batches, total_steps * trainer.accumulate_grad_batches)  # may be unknown
    steps_per_epoch = max(1, math.ceil(num_batches / trainer.accumulate_grad_batches))
    arguments |= {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
    create("scheduler", schedule, 0, **arguments)  # the optimizer would not explain a wrong argument
    return LambdaLR(optimizer, partial(schedule, **arguments))


_ARGUMENTS = ["step", "total_steps", "steps_per_epoch"]


def cosine(
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    *,
    warmup: float = CosineSettings.warmup,
    floor: float = CosineSettings.floor,
) -> float:
    """Returns a linear warm-up over the first `warmup` fraction of all steps, then half a cosine down to `floor`.

    Loshchilov and Hutter, SGDR (ICLR 2017), one cycle; warm-up as in Goyal et al. (2017).
    """
    rise = warmup * total_steps
    if step < rise:
        return (step + 1) / (rise + 1)
    progress = min(1.0, (step - rise) / max(1.0, total_steps - rise))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def step(
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    *,
    every_epochs: int = StepSettings.every_epochs,
    factor: float = StepSettings.factor,
) -> float:
    """Returns `factor` raised to the number of times that `every_epochs` epochs have passed."""
    return factor ** (step // (every_epochs * steps_per_epoch))


def constant(step: int, total_steps: int, steps_per_epoch: int) -> float:
    """Returns 1 at every step."""
    return 1.0
