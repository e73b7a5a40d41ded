"""The rules by which a tuning job stops a training job early, as Optuna's pruners.

Both look at nothing but the objective after each epoch of the jobs so far, so a resumed tuning job, which is given the
learning curves of the one before, goes on as that would have.
"""

from __future__ import annotations

import statistics

import optuna
from optuna.trial import FrozenTrial, TrialState

MIN_PREVIOUS_JOBS = 3
"""Early stopping compares with the median of at least this many completed jobs."""

REDUCTION_FACTOR = 3
"""Hyperband lets one in this many jobs go on at each of its steps, and waits as many times longer for the next."""


class MedianOfRunningAverages(optuna.pruners.BasePruner):
    """AMT's early stopping: stop a job whose objective is worse than the median of the others' running averages.

    Compared at the same epoch with completed jobs. A job that has trained as long as the longest of them is left to
    end by itself: nothing would be saved.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether to stop `trial` at its latest report."""
        step = trial.last_step
        if step is None:
            return False
        completed = [
            values
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if (values := list(other.intermediate_values.values()))
        ]
        longest = max(map(len, completed), default=0)
        averages = [statistics.fmean(values[:step]) for values in completed if len(values) >= step]
        if len(averages) < MIN_PREVIOUS_JOBS or step >= longest:
            return False
        return _better(study, statistics.median(averages), trial.intermediate_values[step])


class SuccessiveHalving(optuna.pruners.BasePruner):
    """Hyperband's steps, asynchronous: at epochs 1, 3, 9... the best third of all jobs that came so far goes on.

    This is ASHA (Li et al., MLSys 2020) with its most eager bracket alone: the jobs of a sweep are too few to be shared
    among brackets. Nothing waits: a job is compared with those that were there before it, so the first goes on to its
    end.

    Args:
        low: epochs of the first step.
        high: most reports of a job; one that is but one away from that is left to end, since nothing would be saved.
    """

    def __init__(self, low: int, high: int):
        self._steps = set()
        while low < high - 1:
            self._steps.add(low)
            low *= REDUCTION_FACTOR

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether to stop `trial` at its latest report."""
        step = trial.last_step
        if step not in self._steps:
            return False
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        others = [t for t in study.get_trials(deepcopy=False, states=states) if t.number != trial.number]
        values = [t.intermediate_values[step] for t in others if step in t.intermediate_values]
        ahead = sum(_better(study, value, trial.intermediate_values[step]) for value in values)
        return ahead >= max(1, (len(values) + 1) // REDUCTION_FACTOR)


def _better(study: optuna.Study, value: float, than: float) -> bool:
    return value < than if study.direction == optuna.study.StudyDirection.MINIMIZE else value > than
