"""When a tuning job is done before its last training job: AMT's completion criteria, and its two early failures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

ATTEMPTS_WITHOUT_SUCCESS = 5
"""AMT gives a tuning job up when none of the first jobs succeeded."""
CONVERGENCE_PATIENCE_JOBS = 10
CONVERGENCE_MARGIN = 0.01
"""AMT calls it converged when improvements are 1 % or less; over how many jobs, it does not say."""


class Completion:
    """Counts the ended jobs of a tuning job and says when to stop starting others.

    Args:
        config: the request's HyperParameterTuningJobConfig.
    """

    def __init__(self, config: Mapping[str, Any]):
        self._sign = 1 if config["HyperParameterTuningJobObjective"]["Type"] == "Minimize" else -1
        criteria = config.get("TuningJobCompletionCriteria", {})
        self._target = criteria.get("TargetObjectiveMetricValue")
        patience = criteria.get("BestObjectiveNotImproving", {}).get("MaxNumberOfTrainingJobsNotImproving")
        self._patience = float("inf") if patience is None else patience
        self._may_converge = criteria.get("ConvergenceDetected", {}).get("CompleteOnConvergence") == "Enabled"
        self._best: float | None = None
        self._landmark: float | None = None
        self._since_landmark = 0
        self.not_improving = 0
        """Ended jobs since the best objective last improved: AMT's NumberOfTrainingJobsObjectiveNotImproving."""
        self.converged_at: float | None = None
        """When convergence was seen, seconds since the epoch."""
        self.failed = 0
        self.without_objective = 0
        self.judged = 0

    def add(self, status: str, value: float | None) -> None:
        """Takes an ended job: its status, and its final objective if it has one."""
        if value is None:
            self.failed += status == "Failed"
            self.without_objective += status != "Failed"
        else:
            self.judged += 1
        self._compare(value)

    def _compare(self, value: float | None) -> None:
        loss = None if value is None else self._sign * value
        if loss is not None and (self._best is None or loss < self._best):
            self._best, self.not_improving = loss, 0
        else:
            self.not_improving += 1
        if loss is not None and (
            self._landmark is None or loss < self._landmark - CONVERGENCE_MARGIN * abs(self._landmark)
        ):
            self._landmark, self._since_landmark = loss, 0
        else:
            self._since_landmark += 1
            if self._since_landmark == CONVERGENCE_PATIENCE_JOBS:
                self.converged_at = time.time()

    def reached(self) -> str | None:
        """Returns which criterion is met, None while none is."""
        if self._best is None:
            return None
        if self._target is not None and self._best <= self._sign * self._target:
            return f"an objective of {self._sign * self._best:g} reaches the target {self._target:g}"
        if self.not_improving >= self._patience:
            return f"the best objective did not improve in {self.not_improving} training jobs"
        if self._may_converge and self._since_landmark >= CONVERGENCE_PATIENCE_JOBS:
            return f"converged: no improvement over 1 % in {self._since_landmark} training jobs"
        return None

    def hopeless(self, ended: bool) -> str | None:
        """Returns why the tuning job fails, None where it does not.

        Args:
            ended: whether no job will follow; before that AMT waits for five attempts.
        """
        attempts = self.failed + self.without_objective
        if self.judged or attempts < (1 if ended else ATTEMPTS_WITHOUT_SUCCESS):
            return None
        if self.without_objective:
            return (
                f"No objective metrics found after running {attempts} training jobs. Please ensure that the algorithm "
                "is emitting the objective metric as defined by the regular expression provided."
            )
        return (
            f"No training job succeeded after {attempts} attempts. Please take a look at the training job failures "
            "to get more details."
        )
