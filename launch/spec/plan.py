"""What was typed to a Plan: what is fixed, what is searched, what it may cost. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.override_parser.types import ChoiceSweep
from omegaconf import DictConfig, OmegaConf

from dogbreed.cli.config import check, fresh_name, resolve_defaults
from dogbreed.cli.groups import choices, unknown_choice
from dogbreed.cli.overrides import parse
from dogbreed.errors import UserError
from launch.spec.contract import RETURN_METRIC, encode
from launch.spec.search_space import Range, split_overrides
from launch.spec.settings import compose
from launch.spec.strategy import Point, combinations, first_points, resolve_strategy

LAUNCHER_KEYS = frozenset(
    {
        "backend", "dry_run", "first_points", "from_tuning", "instance", "logs", "name", "resume", "search", "sweep",
        "tuner",
    }
)  # fmt: skip
"""Keys at the top of the config that the launcher reads itself; no job gets an override of them."""

LAUNCHER_PARTS = frozenset({"debugger.managed_rules"})
"""Keys within groups of the job that only the launcher reads."""

PATH_KEYS = ("data.url", "model.weights")
"""Keys whose value may be a path on this machine."""

OPEN_KEYS = ("data.url", "model.name")
"""Keys that conf/ leaves open, without which nothing can be composed."""


@dataclass(frozen=True)
class Plan:
    """One sweep, decided in every part but where it runs."""

    name: str
    fixed: tuple[str, ...]
    """Overrides of every trial, as text."""
    ranges: tuple[Range, ...]
    cfg: DictConfig
    """The settled config of tune.yaml, ranges at their first value."""
    max_jobs: int
    max_parallel_jobs: int
    app: str | None = None
    """The script of another Hydra application that the trials run; None: they train with dogbreed."""
    first: tuple[Point, ...] = ()
    """Points that are tried first, on this machine: AWS takes none."""

    @property
    def combinations(self) -> int | None:
        """How many different trials there are; None where a number is searched in an interval."""
        return combinations(self.ranges)

    @property
    def bound_hours(self) -> float:
        """Instance-hours that the sweep cannot exceed: every job at its longest, or the sweep's own bound."""
        instance, tuner = self.cfg.instance, self.cfg.tuner
        jobs = self.max_jobs * instance.max_hours
        whole = math.inf if tuner.max_hours is None else self.max_parallel_jobs * tuner.max_hours
        return float(min(jobs, whole) * instance.count)


def make_plan(overrides: Sequence[str]) -> Plan:
    """Returns the plan of a sweep from what was typed.

    Raises:
        UserError: nothing is searched, a range or value is not allowed, a key or choice is unknown.
    """
    cfg, typed = _with_experiment(overrides)
    declared = {str(key): str(value) for key, value in cfg.search.items()}
    fixed, ranges = split_overrides(typed, declared, choices, lambda key: isinstance(_value(cfg, key), int))
    _check_ranges(ranges)
    ranges = [_with_absolute_paths(r) for r in ranges]
    usual = resolve_defaults(cfg)
    cfg = resolve_defaults(compose("tune", [*fixed, *(f"{r.key}={r.values[0]}" for r in ranges)]))
    _check_values(cfg, ranges)
    resolve_strategy(cfg, ranges)
    learns = cfg.tuner.strategy in ("Bayesian", "Hyperband")
    first = first_points(usual, ranges) if learns else ()
    job_overrides = for_the_job(fixed) + absolute_paths(cfg, {r.key for r in ranges})
    max_jobs = _max_jobs(cfg, ranges)
    parallel = min(int(cfg.tuner.max_parallel_jobs), max_jobs)
    return Plan(str(cfg.name), tuple(job_overrides), tuple(ranges), cfg, max_jobs, parallel, first=tuple(first))


def make_app_plan(
    overrides: Sequence[str],
    launcher: Sequence[str],
    app: str,
    *,
    declared: Mapping[str, str],
    options: Callable[[str], Sequence[str]],
    value: Callable[[str], object],
) -> Plan:
    """Returns the plan of a sweep of another Hydra application.

    Args:
        overrides: of the application, ranges among them.
        launcher: of tune.yaml: tuner, backend, instance.
        app: path of the application's script.
        declared: key to range, for `KEY=range`.
        options: the choices of one of the application's config groups.
        value: the application's own value of a key.

    Raises:
        UserError: nothing is searched, or a range or a setting of the launcher is not allowed.
    """
    cfg = compose("tune", launcher)
    cfg.objective.metric = RETURN_METRIC
    if cfg.name is None:
        cfg.name = fresh_name(Path(app).stem)
    fixed, ranges = split_overrides(overrides, declared, options, lambda key: _is_whole(value(key)))
    if not ranges:
        raise UserError("nothing is searched: give at least one range, for example lr=interval(0.1,1) or size=1,2,3")
    resolve_strategy(cfg, ranges, app=True)
    max_jobs = _max_jobs(cfg, ranges)
    parallel = min(int(cfg.tuner.max_parallel_jobs), max_jobs)
    return Plan(str(cfg.name), tuple(fixed), tuple(ranges), resolve_defaults(cfg), max_jobs, parallel, app)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def for_the_job(overrides: Sequence[str]) -> list[str]:
    """Returns those `overrides` that say what a job does; the others steer the launcher."""
    return [
        text
        for text in overrides
        if _root(text) not in LAUNCHER_KEYS and parse([text])[0].key_or_group not in LAUNCHER_PARTS
    ]


def _with_experiment(overrides: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """Returns the config without ranges, and `overrides` with the `sweep:` of the chosen experiment before them.

    A key that must be given has its first choice there.
    """
    plain = [o for o in overrides if not _is_sweep(o)]
    searched = [(o.key_or_group, o.value()) for o in parse(overrides) if o.key_or_group in OPEN_KEYS]
    plain += [f"{key}={encode(sweep.list[0])}" for key, sweep in searched if isinstance(sweep, ChoiceSweep)]
    cfg = compose("tune", plain)
    typed = {o.key_or_group for o in parse(overrides)}
    added = [f"{key}={value}" for key, value in cfg.sweep.items() if key not in typed]
    single = [o for o in added if not _is_sweep(o)]
    return compose("tune", [*single, *plain]) if single else cfg, [*added, *overrides]


def _is_sweep(text: str) -> bool:
    override = parse([text])[0]
    return override.is_sweep_override() or override.value() == "range"


def _root(text: str) -> str:
    return parse([text])[0].key_or_group.split(".")[0].split("/")[0]


def _value(cfg: DictConfig, key: str) -> object:
    value = OmegaConf.select(cfg, key)
    return None if isinstance(value, bool) else value


def _check_ranges(ranges: Sequence[Range]) -> None:
    if not ranges:
        raise UserError("nothing is searched: give at least one range, for example lr=range or batch_size=16,32")
    for r in ranges:
        if _root(f"{r.key}=0") in LAUNCHER_KEYS:
            raise UserError(f"{r.key} steers the sweep itself and cannot be searched: give it one value")
        group = r.bare_key
        for value in r.values:
            if choices(group) and value not in choices(group):
                raise UserError(unknown_choice(group, value, choices(group)))
    names = [r.name for r in ranges]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two keys would both be called {sorted(twice)[0]} in the job: search one of them at a time")


def _check_values(cfg: DictConfig, ranges: Sequence[Range]) -> None:
    """Checks every value that a trial could get, so that a bad one is found here and not in the job."""
    for r in ranges:
        key = r.bare_key
        if choices(key):
            continue
        for value in r.values:
            trial = cfg.copy()
            OmegaConf.update(trial, key, parse([f"{key}={value}"])[0].value(), force_add=True)
            check(trial)


def absolute_paths(cfg: DictConfig, searched: Collection[str] = ()) -> list[str]:
    """Returns overrides that make paths absolute, but for keys that are searched: a job runs in a folder of its own."""
    given = {key: str(OmegaConf.select(cfg, key)) for key in PATH_KEYS if key not in searched}
    return [f"{key}={encode(_absolute(value))}" for key, value in given.items() if value != _absolute(value)]


def _with_absolute_paths(searched: Range) -> Range:
    if searched.bare_key not in PATH_KEYS:
        return searched
    values = [parse([f"{searched.key}={value}"])[0].value() for value in searched.values]
    return replace(searched, values=tuple("null" if v is None else encode(_absolute(str(v))) for v in values))


def _absolute(value: str) -> str:
    """Returns a path as an absolute one; an address, or a word that stands for weights, as it is."""
    elsewhere = "://" in value or value in ("hub", "random") or value.startswith("demo:")
    return value if elsewhere or Path(value).is_absolute() else str(Path(value).expanduser().absolute())


def _max_jobs(cfg: DictConfig, ranges: Sequence[Range]) -> int:
    tuner, all_points = cfg.tuner, combinations(ranges)
    if tuner.strategy == "Grid":
        intervals = [r.key for r in ranges if r.kind != "Categorical"]
        if intervals:
            raise UserError(f"tuner=grid tries every choice, but {intervals[0]} is an interval: give choices, a,b,c")
        return int(all_points or 1)
    return min(int(tuner.max_jobs), all_points) if all_points else int(tuner.max_jobs)
