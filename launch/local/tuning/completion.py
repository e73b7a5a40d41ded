"""When a tuning job ends before its last training job: AMT's completion criteria and its two early failures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

ATTEMPTS_WITHOUT_SUCCESS = 5
"""AMT fails a tuning job if none of the first jobs succeeds."""
CONVERGENCE_PATIENCE_JOBS = 10
CONVERGENCE_MARGIN = 0.01
"""AMT detects convergence if improvements are 1 % or less; it does not document over how many jobs."""


class Completion:
    """Counts the ended jobs of a tuning job and decides whether it ends early.

    Attributes:
        not_improving: Jobs that ended since the best objective improved, AMT's
            NumberOfTrainingJobsObjectiveNotImproving.
        converged_at: Time of convergence in seconds since the epoch; None before.
    """

    def __init__(self, config: Mapping[str, Any]):
        self._sign = 1 if config["HyperParameterTuningJobObjective"]["Type"] == "Minimize" else -1
        criteria = config.get("TuningJobCompletionCriteria", {})
        self._target = criteria.get("TargetObjectiveMetricValue")
        patience = criteria.get("BestObjectiveNotImproving", {}).get("MaxNumberOfTrainingJobsNotImproving")
        self._patience = float("inf") if patience is None else patience
        self._may_converge = criteria.get("ConvergenceDetected", {}).get("CompleteOnConvergence") == "Enabled"
        self._best: float | None = None
        self._reference: float | None = None
        self._since_reference = 0
        self.not_improving = 0
        self.converged_at: float | None = None
        self._failed = 0
        self._without_objective = 0
        self._with_objective = 0

    def add(self, status: str, value: float | None) -> None:
        """Counts an ended job, given its status and its final objective, if it has one."""
        if value is None:
            self._failed += status == "Failed"
            self._without_objective += status != "Failed"
        else:
            self._with_objective += 1
        self._compare(value)

    def _compare(self, value: float | None) -> None:
        loss = None if value is None else self._sign * value
        if loss is not None and (self._best is None or loss < self._best):
            self._best, self.not_improving = loss, 0
        else:
            self.not_improving += 1
        if loss is not None and (
            self._reference is None or loss < self._reference - CONVERGENCE_MARGIN * abs(self._reference)
        ):
            self._reference, self._since_reference = loss, 0
        else:
            self._since_reference += 1
            if self._since_reference == CONVERGENCE_PATIENCE_JOBS:
                self.converged_at = time.time()

    def reached_criterion(self) -> str | None:
        """Returns the completion criterion that is met, as text; None if none is."""
        if self._best is None:
            return None
        if self._target is not None and self._best <= self._sign * self._target:
            return f"an objective of {self._sign * self._best:g} reaches the target {self._target:g}"
        if self.not_improving >= self._patience:
            return f"the best objective did not improve in {self.not_improving} training jobs"
        if self._may_converge and self._since_reference >= CONVERGENCE_PATIENCE_JOBS:
            return f"converged: no improvement over 1 % in {self._since_reference} training jobs"
        return None

    def failure_reason(self, ended: bool) -> str | None:
        """Returns why the tuning job fails; None if it does not.

        Args:
            ended: Whether no other job will follow; otherwise AMT waits for five attempts.
        """
        attempts = self._failed + self._without_objective
        if self._with_objective or attempts < (1 if ended else ATTEMPTS_WITHOUT_SUCCESS):
            return None
        if self._without_objective:
            return (
                f"No objective metrics found after running {attempts} training jobs. Please ensure that the algorithm "
                "is emitting the objective metric as defined by the regular expression provided."
            )
        return (
            f"No training job succeeded after {attempts} attempts. Please take a look at the training job failures "
            "to get more details."
        )
