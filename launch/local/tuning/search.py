"""The search strategies of a tuning job, Optuna's underneath: which point next, which job to stop early.

No processes and no files here: a `Search` is asked for points and told what came of them.
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
from launch.local.tuning.pruners import MedianOfRunningAverages, SuccessiveHalving
from launch.spec.contract import FIRST_POINTS
from launch.spec.limits import EPOCH_NAMES

MAX_LISTED_POINTS = 100_000
"""A finite space up to this size is searched for its last untried points one by one."""


class PastJob(NamedTuple):
    """A training job of an earlier tuning job."""

    point: Point
    value: float | None
    """Its final objective; None where it failed before it had one."""
    interrupted: bool
    """Whether it was stopped with its tuning job, so that its point is tried again."""
    curve: tuple[float, ...] = ()
    """Its objective after each epoch."""
    completed: bool = True
    """Whether it ran to its own end; otherwise the search stopped it."""


class Proposal(NamedTuple):
    """A point to try, and the number by which the search knows it."""

    number: int
    point: Point


class Search:
    """The strategy of one tuning job.

    Args:
        config: the request's HyperParameterTuningJobConfig.
        static: the definition's StaticHyperParameters: points to try first, and epochs from which Hyperband may infer
            MaxResource.
        past: the jobs of the warm start's parents; what they found is known to the search.
        same_data: whether they trained on the same data by the same algorithm: then no point of theirs is repeated,
            the interrupted ones are tried first, and their learning curves count in stopping others. From other data
            the best point of all is tried first.
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
        seed = config.get("RandomSeed")
        self._random = random.Random(seed)
        self._max_resource = _max_resource(config, static or {})
        goal = config["HyperParameterTuningJobObjective"]["Type"]
        self._study = optuna.create_study(
            direction="minimize" if goal == "Minimize" else "maximize",
            sampler=_sampler(config, seed),
            pruner=_pruner(config, self._max_resource),
        )
        self._trials: dict[int, optuna.Trial] = {}
        self._steps: Counter[int] = Counter()
        self._tried: set[tuple[str, ...]] = set()
        self._learn(past, same_data)
        for point in json.loads((static or {}).get(FIRST_POINTS, "[]")):
            self._try_soon(point)
        if config["Strategy"] == "Grid":
            for values in self.space.points():
                self._study.enqueue_trial(values)

    def ask(self) -> Proposal | None:
        """Returns the next point, none tried before; None when the space has no other."""
        for _ in range(len(self._tried) + 100):
            if len(self._tried) >= self.space.size:
                return None
            proposal = self._propose()
            if proposal is not None:
                return proposal
        return self._propose_untried()

    def report(self, number: int, value: float) -> str | None:
        """Takes the next objective value of a running job; returns why to stop it, or None to let it go on."""
        trial = self._trials[number]
        self._steps[number] += 1
        step = self._steps[number]
        trial.report(value, step)
        if self._max_resource is not None and step >= self._max_resource:
            # A job of just MaxResource reports is left to end; one that goes on is stopped.
            return (
                f"Hyperband: it passed MaxResource, {self._max_resource} epochs" if step > self._max_resource else None
            )
        if trial.should_prune():
            rule = "Early stopping" if self._max_resource is None else "Hyperband"
            return f"{rule}: its objective after epoch {step}, {value:g}, is behind that of the others"
        return None

    def tell(self, number: int, value: float | None, completed: bool) -> None:
        """Takes the end of a job.

        Args:
            number: of its proposal.
            value: its final objective; None where it has none.
            completed: whether it ran to its own end; otherwise it was stopped.
        """
        trial = self._trials.pop(number)
        if value is None:
            self._study.tell(trial, state=TrialState.FAIL)
        elif completed:
            self._study.tell(trial, value)
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def _learn(self, past: Sequence[PastJob], same_data: bool) -> None:
        """Tells the study what earlier jobs found, and which points to begin with."""
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
                    self._try_soon(job.point)
        elif judged := [job for job, _ in known if job.value is not None]:
            sign = 1 if self._study.direction == optuna.study.StudyDirection.MINIMIZE else -1
            self._try_soon(min(judged, key=lambda job: sign * (job.value or 0.0)).point)

    def _as_trial(self, job: PastJob, values: dict[str, Any], same_data: bool) -> optuna.trial.FrozenTrial:
        """Returns a job of the past as if it had been one of this study."""
        stopped = same_data and job.curve and not job.completed
        return optuna.create_trial(
            state=TrialState.PRUNED if stopped else TrialState.COMPLETE,
            params=values,
            distributions=self.space.distributions,
            value=None if stopped else job.value,
            intermediate_values=dict(enumerate(job.curve, start=1)) if same_data else {},
        )

    def _try_soon(self, point: Point) -> None:
        """Puts a point in the queue of those that are tried first, if it lies in the space and was not tried."""
        values = self.space.parse(point)
        if values is not None and self._key(self.space.texts(values)) not in self._tried:
            self._study.enqueue_trial(values)

    def _propose(self) -> Proposal | None:
        """Returns the sampler's next point, None where it was tried before."""
        trial = self._study.ask(self.space.distributions)
        point = self.space.texts(trial.params)
        if self._key(point) in self._tried:
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        self._tried.add(self._key(point))
        self._trials[trial.number] = trial
        return Proposal(trial.number, point)

    def _propose_untried(self) -> Proposal | None:
        """Returns one of the last untried points of a small space, drawn evenly."""
        if self.space.size > MAX_LISTED_POINTS:
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
    # A third of the jobs at random first, so that a sweep of six is searched at all; Optuna's own ten at most.
    startup = min(10, max(2, jobs // 3))
    return optuna.samplers.TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)


def _pruner(config: Mapping[str, Any], max_resource: int | None) -> optuna.pruners.BasePruner:
    if max_resource is not None:
        least = _hyperband(config).get("MinResource", 1)
        return SuccessiveHalving(least, max_resource)
    if config.get("TrainingJobEarlyStoppingType") == "Auto":
        return MedianOfRunningAverages()
    return optuna.pruners.NopPruner()


def _hyperband(config: Mapping[str, Any]) -> Mapping[str, int]:
    settings: Mapping[str, int] = config.get("StrategyConfig", {}).get("HyperbandStrategyConfig", {})
    return settings


def _max_resource(config: Mapping[str, Any], static: Mapping[str, str]) -> int | None:
    """Returns Hyperband's MaxResource, given or inferred from a static number of epochs; None for other strategies."""
    if config["Strategy"] != "Hyperband":
        return None
    inferred = [static[name] for name in EPOCH_NAMES if name in static]
    return int(_hyperband(config).get("MaxResource") or inferred[0])
