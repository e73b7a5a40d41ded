"""The search strategies of a tuning job, based on Optuna: the next point, and which job to stop early.

Knows no processes and no files: a `Search` proposes points and receives their results.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState

from launch.local.tuning.distributions import Point, Space, parse_ranges
from launch.local.tuning.pruners import AshaPruner, RunningAverageMedianPruner
from launch.spec.contract import FIRST_POINTS
from launch.spec.limits import EPOCH_NAMES

MAX_LISTED_POINTS = 100_000
"""Largest finite space whose last untried points are found by listing all points."""


class PastJob(NamedTuple):
    """A training job of an earlier tuning job."""

    point: Point
    value: float | None
    """Its final objective; None if it has none."""
    interrupted: bool
    """Whether it was stopped together with its tuning job; its point is then tried again."""
    curve: tuple[float, ...] = ()
    """Its objective after each epoch."""
    completed: bool = True
    """Whether it ran to its end; False if the search stopped it."""


class Proposal(NamedTuple):
    """A point to try, and its number in the search."""

    number: int
    point: Point


class Search:
    """The strategy of one tuning job.

    Args:
        config: The request's HyperParameterTuningJobConfig.
        static: The definition's StaticHyperParameters, which may contain points to try first and the number of epochs
            that Hyperband takes for MaxResource.
        past: The jobs of the warm start's parents; the search learns from their results.
        same_data: Whether they trained on the same data with the same algorithm. If so, their points are not repeated,
            except that interrupted ones are tried first, and early stopping uses their learning curves. If not, the
            best of their points is tried first.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        static: Mapping[str, str] | None = None,
        past: Sequence[PastJob] = (),
        same_data: bool = False,
    ):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space: Space = parse_ranges(config["ParameterRanges"])
        self._size = self.space.size
        seed = config.get("RandomSeed")
        self._random = random.Random(seed)
        self._max_resource = _max_resource(config, static or {})
        self._minimize = config["HyperParameterTuningJobObjective"]["Type"] == "Minimize"
        self._study = optuna.create_study(
            direction="minimize" if self._minimize else "maximize",
            sampler=_sampler(config, seed),
            pruner=_pruner(config, self._max_resource),
        )
        self._trials: dict[int, optuna.Trial] = {}
        self._steps: Counter[int] = Counter()
        self._tried: set[tuple[str, ...]] = set()
        self._learn(past, same_data)
        for point in json.loads((static or {}).get(FIRST_POINTS, "[]")):
            self._enqueue(point)
        if config["Strategy"] == "Grid":
            for values in self.space.points():
                self._study.enqueue_trial(values)

    def ask(self) -> Proposal | None:
        """Returns the next point, which was not tried before; None if the space is exhausted."""
        for _ in range(len(self._tried) + 100):
            if len(self._tried) >= self._size:
                return None
            proposal = self._propose()
            if proposal is not None:
                return proposal
        return self._propose_untried()

    def report(self, number: int, value: float) -> str | None:
        """Takes the next objective value of a running job; returns why to stop the job, or None to continue."""
        trial = self._trials[number]
        self._steps[number] += 1
        step = self._steps[number]
        trial.report(value, step)
        if self._max_resource is not None and step >= self._max_resource:
            # A job ends without a stop after MaxResource reports; one that continues is stopped.
            return (
                f"Hyperband: the job passed MaxResource, {self._max_resource} epochs"
                if step > self._max_resource
                else None
            )
        if trial.should_prune():
            rule = "Early stopping" if self._max_resource is None else "Hyperband"
            return f"{rule}: the objective after epoch {step}, {value:g}, is worse than that of other jobs"
        return None

    def tell(self, number: int, value: float | None, completed: bool) -> None:
        """Ends proposal `number` with its final objective, if it has one; `completed`: the job was not stopped."""
        trial = self._trials.pop(number)
        if value is None:
            self._study.tell(trial, state=TrialState.FAIL)
        elif completed:
            self._study.tell(trial, value)
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def _learn(self, past: Sequence[PastJob], same_data: bool) -> None:
        """Adds the results of earlier jobs to the study and queues the points to try first."""
        known = [(job, values) for job in past if (values := self.space.parse(job.point)) is not None]
        for job, values in known:
            if job.interrupted:
                continue
            if same_data:
                self._tried.add(self._key(self.space.texts(values)))
            if job.value is not None:
                self._study.add_trial(self._as_trial(job, values, same_data))
        if same_data:
            for job, _ in known:
                if job.interrupted:
                    self._enqueue(job.point)
        elif scored := [job for job, _ in known if job.value is not None]:
            sign = 1 if self._minimize else -1
            self._enqueue(min(scored, key=lambda job: sign * (job.value or 0.0)).point)

    def _as_trial(self, job: PastJob, values: dict[str, Any], same_data: bool) -> optuna.trial.FrozenTrial:
        """Returns an earlier job as a trial of this study."""
        stopped = same_data and job.curve and not job.completed
        return optuna.create_trial(
            state=TrialState.PRUNED if stopped else TrialState.COMPLETE,
            params=values,
            distributions=self.space.distributions,
            value=None if stopped else job.value,
            intermediate_values=dict(enumerate(job.curve, start=1)) if same_data else {},
        )

    def _enqueue(self, point: Point) -> None:
        """Queues a point to be tried first, if it is in the space and was not tried."""
        values = self.space.parse(point)
        if values is not None and self._key(self.space.texts(values)) not in self._tried:
            self._study.enqueue_trial(values)

    def _propose(self) -> Proposal | None:
        """Returns the sampler's next point; None if it was tried before."""
        trial = self._study.ask(self.space.distributions)
        point = self.space.texts(trial.params)
        if self._key(point) in self._tried:
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        self._tried.add(self._key(point))
        self._trials[trial.number] = trial
        return Proposal(trial.number, point)

    def _propose_untried(self) -> Proposal | None:
        """Returns a random untried point of a small space; None if there is none."""
        if self._size > MAX_LISTED_POINTS:
            return None
        untried = [v for v in self.space.points() if self._key(self.space.texts(v)) not in self._tried]
        if not untried:
            return None
        self._study.enqueue_trial(self._random.choice(untried))
        return self._propose()

    def _key(self, point: Point) -> tuple[str, ...]:
        return tuple(point[parameter.name] for parameter in self.space.parameters)


def _sampler(config: Mapping[str, Any], seed: int | None) -> optuna.samplers.BaseSampler:
    if config["Strategy"] in {"Random", "Grid"}:
        return optuna.samplers.RandomSampler(seed)
    jobs = config["ResourceLimits"]["MaxNumberOfTrainingJobs"]
    # Optuna's ten random trials would be all of a small sweep.
    startup = min(10, max(2, jobs // 3))
    return optuna.samplers.TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)


def _pruner(config: Mapping[str, Any], max_resource: int | None) -> optuna.pruners.BasePruner:
    if max_resource is not None:
        return AshaPruner(_hyperband(config).get("MinResource", 1), max_resource)
    if config.get("TrainingJobEarlyStoppingType") == "Auto":
        return RunningAverageMedianPruner()
    return optuna.pruners.NopPruner()


def _hyperband(config: Mapping[str, Any]) -> Mapping[str, int]:
    settings: Mapping[str, int] = config.get("StrategyConfig", {}).get("HyperbandStrategyConfig", {})
    return settings


def _max_resource(config: Mapping[str, Any], static: Mapping[str, str]) -> int | None:
    """Returns Hyperband's MaxResource, by default the static number of epochs; None for other strategies."""
    if config["Strategy"] != "Hyperband":
        return None
    epochs = [static[name] for name in EPOCH_NAMES if name in static]
    return int(_hyperband(config).get("MaxResource") or epochs[0])
