"""The early stopping rules of a tuning job as Optuna pruners.

Both depend only on the objective after each epoch, so a resumed tuning job, which knows the learning curves of its
parent, continues as the parent would have. Optuna's own pruners do not fit: `SuccessiveHalvingPruner` keeps its rungs
in private attributes of trials that it has judged itself, so it ignores the curves of a parent; `MedianPruner`
compares the best value so far with other trials at one step, whereas AMT compares with their running averages.
"""

from __future__ import annotations

import statistics

import optuna
from optuna.trial import FrozenTrial, TrialState

MIN_PREVIOUS_JOBS = 3
"""Number of completed jobs that early stopping needs before it compares with their median."""

REDUCTION_FACTOR = 3
"""At each rung, Hyperband continues one in this many jobs; the next rung is this many times later."""


class RunningAverageMedianPruner(optuna.pruners.BasePruner):
    """AMT's early stopping rule.

    Stops a job if its objective is worse than the median of the running averages that completed jobs had at the same
    epoch, unless it has already trained as long as the longest of them.

    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/automatic-model-tuning-early-stopping.html
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether to stop `trial` at its latest report."""
        step = trial.last_step
        if step is None:
            return False
        curves = [
            values
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if (values := list(other.intermediate_values.values()))
        ]
        longest = max(map(len, curves), default=0)
        averages = [statistics.fmean(values[:step]) for values in curves if len(values) >= step]
        if len(averages) < MIN_PREVIOUS_JOBS or step >= longest:
            return False
        return _better(study, statistics.median(averages), trial.intermediate_values[step])


class AshaPruner(optuna.pruners.BasePruner):
    """Asynchronous successive halving with a single bracket: at epochs 1, 3, 9, ... the best third continues.

    Several brackets would need more jobs than a sweep has. A job is compared only with those that reached the rung
    before it, so no job waits for another and the first one always runs to its end.

    Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020.

    Args:
        min_epochs: Epochs until the first rung.
        max_epochs: Largest number of reports of a job. There is no rung at the last two: stopping would save nothing.
    """

    def __init__(self, min_epochs: int, max_epochs: int):
        self._rungs = set()
        while min_epochs < max_epochs - 1:
            self._rungs.add(min_epochs)
            min_epochs *= REDUCTION_FACTOR

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether to stop `trial` at its latest report."""
        step = trial.last_step
        if step not in self._rungs:
            return False
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        others = [t for t in study.get_trials(deepcopy=False, states=states) if t.number != trial.number]
        values = [t.intermediate_values[step] for t in others if step in t.intermediate_values]
        ahead = sum(_better(study, value, trial.intermediate_values[step]) for value in values)
        return ahead >= max(1, (len(values) + 1) // REDUCTION_FACTOR)


def _better(study: optuna.Study, value: float, than: float) -> bool:
    return value < than if study.direction == optuna.study.StudyDirection.MINIMIZE else value > than
