"""Plans a sweep or a training from its overrides: fixed settings, search space, bound on its cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.override_parser.types import ChoiceSweep, Override
from omegaconf import DictConfig, OmegaConf

from dogbreed.cli.config import resolve_defaults
from dogbreed.cli.groups import choices, unknown_choice
from dogbreed.cli.overrides import is_sweep, parse
from dogbreed.cli.schema import TRAINING, check
from dogbreed.errors import UserError
from launch.spec.contract import RETURN_METRIC, app_program, encode
from launch.spec.search_space import SearchParameter, combinations, split_overrides
from launch.spec.settings import compose
from launch.spec.strategy import Point, first_points, resolve_strategy

LAUNCHER_KEYS = frozenset(
    {
        "backend", "dry_run", "first_points", "from_tuning", "instance", "logs", "name", "resume", "search", "sweep",
        "tuner",
    }
)  # fmt: skip
"""Keys at the top of the config that only the launcher reads; jobs get no override of them."""

PATH_KEYS = ("data.url", "model.weights")
"""Keys whose value may be a path on this machine."""

REQUIRED_KEYS = ("data.url", "model.name")
"""Keys without a default, which are needed to compose a config."""

DEFAULT_MAX_HOURS = 2.0
"""Time limit of a job on AWS, unless one is given."""

NewName = Callable[[str], str]
"""Returns an unused name of a run, given the name of its model or script."""


@dataclass(frozen=True)
class Plan:
    """A sweep, complete except for where it runs."""

    name: str
    fixed: tuple[str, ...]
    """Overrides of every trial."""
    parameters: tuple[SearchParameter, ...]
    cfg: DictConfig
    """The resolved config of tune.yaml, with the first value of each searched key."""
    max_jobs: int
    max_parallel_jobs: int
    app: str | None = None
    """Script of another Hydra application that the trials run; None for dogbreed."""
    first: tuple[Point, ...] = ()
    """Points that are tried first, if the backend accepts them."""

    @property
    def combinations(self) -> int | None:
        """Number of points in the search space; None if it has an interval."""
        return combinations(self.parameters)

    @property
    def bound_hours(self) -> float:
        """Upper bound on the instance-hours: every job at its maximum, or the maximum of the sweep."""
        instance, tuner = self.cfg.instance, self.cfg.tuner
        jobs = self.max_jobs * max_hours(instance)
        sweep = math.inf if tuner.max_hours is None else self.max_parallel_jobs * tuner.max_hours
        return float(min(jobs, sweep) * instance.count)


def max_hours(instance: DictConfig) -> float:
    """Returns the hours after which a job on AWS is stopped."""
    return DEFAULT_MAX_HOURS if instance.max_hours is None else float(instance.max_hours)


def make_plan(overrides: Sequence[str], cwd: Path, new_name: NewName) -> Plan:
    """Returns the plan of a sweep.

    Args:
        overrides: As after `python -m launch.tune`.
        cwd: Folder that relative paths refer to; jobs run in another one.
        new_name: Names the sweep if the overrides do not.

    Raises:
        UserError: Nothing is searched, a range or value is invalid, or a key or choice is unknown.
    """
    cfg, parsed = _with_experiment(parse(overrides))
    declared = {str(key): str(value) for key, value in cfg.search.items()}
    fixed, parameters = split_overrides(parsed, declared, choices, lambda key: _is_integer(OmegaConf.select(cfg, key)))
    _check_parameters(parameters)
    parameters = [_with_absolute_paths(parameter, cwd) for parameter in parameters]
    defaults = resolve_defaults(_named(cfg, str))
    first_values = [f"{parameter.key}={parameter.values[0]}" for parameter in parameters]
    cfg = compose("tune", [*(str(override.input_line) for override in fixed), *first_values])
    cfg = resolve_defaults(_named(cfg, new_name))
    _check_values(cfg, parameters)
    cfg = resolve_strategy(cfg, parameters)
    adaptive = cfg.tuner.strategy in ("Bayesian", "Hyperband")
    return _plan(
        cfg,
        parameters,
        fixed=[*job_overrides(fixed), *absolute_paths(cfg, cwd, {parameter.key for parameter in parameters})],
        first=first_points(defaults, parameters) if adaptive else [],
    )


def make_app_plan(
    overrides: Sequence[str],
    launcher: Sequence[str],
    app: str,
    *,
    declared: Mapping[str, str],
    options: Callable[[str], Sequence[str]],
    value: Callable[[str], object],
    new_name: NewName,
) -> Plan:
    """Returns the plan of a sweep of another Hydra application.

    Args:
        overrides: Of the application, including the sweeps.
        launcher: Overrides of tune.yaml: tuner, backend, instance.
        app: Path of the application's script.
        declared: Key to sweep, for `KEY=range`.
        options: Returns the choices of one of the application's config groups.
        value: Returns the value of a key in the application's config.
        new_name: Names the sweep if the overrides do not.

    Raises:
        UserError: Nothing is searched, or a range or a setting of the launcher is invalid.
    """
    cfg = compose("tune", launcher)
    cfg.objective.metric = RETURN_METRIC
    if cfg.name is None:
        cfg.name = new_name(Path(app_program(app)[-1]).stem)
    fixed, parameters = split_overrides(parse(overrides), declared, options, lambda key: _is_integer(value(key)))
    if not parameters:
        raise UserError("nothing is searched: give at least one range, for example lr=interval(0.1,1) or size=1,2,3")
    cfg = resolve_defaults(resolve_strategy(cfg, parameters, app=True))
    return _plan(cfg, parameters, fixed=[str(override.input_line) for override in fixed], app=app)


def make_training_plan(overrides: Sequence[str], cwd: Path, new_name: NewName) -> tuple[DictConfig, list[str]]:
    """Returns the resolved config of a single training, and the overrides of its job. Arguments as for `make_plan`."""
    cfg = resolve_defaults(_named(compose("training", overrides), new_name))
    return cfg, [*job_overrides(parse(overrides)), *absolute_paths(cfg, cwd)]


def job_overrides(overrides: Sequence[Override]) -> list[str]:
    """Returns the overrides that the job needs, as text, without those that only the launcher reads."""
    return [str(override.input_line) for override in overrides if _root(override.key_or_group) not in LAUNCHER_KEYS]


def absolute_paths(cfg: DictConfig, cwd: Path, searched: Collection[str] = ()) -> list[str]:
    """Returns overrides that make the paths in `cfg` absolute, except those of `searched` keys."""
    given = {key: str(OmegaConf.select(cfg, key)) for key in PATH_KEYS if key not in searched}
    absolute = {key: _absolute(value, cwd) for key, value in given.items()}
    return [f"{key}={encode(path)}" for key, path in absolute.items() if path != given[key]]


def _plan(
    cfg: DictConfig,
    parameters: Sequence[SearchParameter],
    fixed: Sequence[str],
    app: str | None = None,
    first: Sequence[Point] = (),
) -> Plan:
    max_jobs = _max_jobs(cfg, parameters)
    parallel = min(int(cfg.tuner.max_parallel_jobs), max_jobs)
    return Plan(str(cfg.name), tuple(fixed), tuple(parameters), cfg, max_jobs, parallel, app, tuple(first))


def _named(cfg: DictConfig, new_name: NewName) -> DictConfig:
    cfg = cfg.copy()
    if cfg.name is None:
        cfg.name = new_name(str(cfg.model.name))
    return cfg


def _with_experiment(overrides: Sequence[Override]) -> tuple[DictConfig, list[Override]]:
    """Returns the config without ranges, and `overrides` preceded by the `sweep:` of the chosen experiment.

    Required keys that are searched have their first choice in the config.
    """
    plain = [str(override.input_line) for override in overrides if not is_sweep(override)]
    for override in overrides:
        sweep = override.value()
        if override.key_or_group in REQUIRED_KEYS and isinstance(sweep, ChoiceSweep):
            plain.append(f"{override.key_or_group}={encode(sweep.list[0])}")
    cfg = compose("tune", plain)
    given = {override.key_or_group for override in overrides}
    added = parse([f"{key}={value}" for key, value in cfg.sweep.items() if key not in given])
    fixed = [str(override.input_line) for override in added if not is_sweep(override)]
    return compose("tune", [*fixed, *plain]) if fixed else cfg, [*added, *overrides]


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _root(key: str) -> str:
    return key.split(".", maxsplit=1)[0].split("/", maxsplit=1)[0]


def _check_parameters(parameters: Sequence[SearchParameter]) -> None:
    if not parameters:
        raise UserError("nothing is searched: give at least one range, for example lr=range or batch_size=16,32")
    for parameter in parameters:
        group = parameter.bare_key
        if _root(group) in LAUNCHER_KEYS:
            raise UserError(f"{parameter.key} is a setting of the launcher and cannot be searched: give it one value")
        for value in parameter.values:
            if choices(group) and value not in choices(group):
                raise UserError(unknown_choice(group, value, choices(group)))
    names = [parameter.name for parameter in parameters]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two keys have the same hyperparameter name {twice[0]}: search one of them at a time")


def _check_values(cfg: DictConfig, parameters: Sequence[SearchParameter]) -> None:
    """Checks every value that a trial could get, before any trial starts."""
    for parameter in parameters:
        key = parameter.bare_key
        if choices(key):
            continue
        for value in parameter.values:
            trial = cfg.copy()
            OmegaConf.update(trial, key, parse([f"{key}={value}"])[0].value(), force_add=True)
            check(trial, TRAINING)


def _with_absolute_paths(parameter: SearchParameter, cwd: Path) -> SearchParameter:
    if parameter.bare_key not in PATH_KEYS:
        return parameter
    values = [parse([f"{parameter.key}={value}"])[0].value() for value in parameter.values]
    return replace(parameter, values=tuple("null" if v is None else encode(_absolute(str(v), cwd)) for v in values))


def _absolute(value: str, cwd: Path) -> str:
    """Returns a path as an absolute one; a URL, `hub` and `random` unchanged."""
    is_path = "://" not in value and value not in ("hub", "random") and not value.startswith("demo:")
    return str(cwd / Path(value).expanduser()) if is_path and not Path(value).is_absolute() else value


def _max_jobs(cfg: DictConfig, parameters: Sequence[SearchParameter]) -> int:
    tuner, points = cfg.tuner, combinations(parameters)
    if tuner.strategy != "Grid":
        return min(int(tuner.max_jobs), points) if points else int(tuner.max_jobs)
    if points is None:
        interval = next(parameter.key for parameter in parameters if parameter.kind != "Categorical")
        raise UserError(f"tuner=grid tries every choice, but {interval} is an interval: give choices, a,b,c")
    if tuner.max_jobs is not None and tuner.max_jobs != points:
        raise UserError(
            f"tuner.max_jobs={tuner.max_jobs}: a grid tries all {points} points; omit it, or type tuner=random"
        )
    return points
