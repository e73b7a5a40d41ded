"""Resolves `tuner=auto` to a search strategy, and selects the points that are tried first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from dogbreed.errors import UserError
from launch.spec.contract import encode
from launch.spec.search_space import SearchParameter, combinations

MIN_EPOCHS = 3
"""Shorter trainings are not worth stopping early."""

FULL_JOBS = 6
"""Default number of trials that train to their end."""

HYPERBAND_JOBS = 12
"""Default number of trials if Hyperband stops most of them early; costs about as much as FULL_JOBS."""

Point = dict[str, str]
"""Name of each hyperparameter to its value, as text in Hydra's grammar."""


def resolve_strategy(cfg: DictConfig, parameters: Sequence[SearchParameter], app: bool = False) -> DictConfig:
    """Returns `cfg` with the missing settings of `tuner` resolved: strategy, early stopping, epochs, number of jobs.

    Hyperband ranks trials by their first epochs. These predict the final result for a head on a frozen backbone, but
    not for a whole network: the learning rate that is best after four epochs is often behind after one.
    """
    cfg = cfg.copy()
    tuner, keys, points = cfg.tuner, {p.bare_key for p in parameters}, combinations(parameters)
    predictive = cfg.finetune == "head" and cfg.epochs >= MIN_EPOCHS and not keys & {"finetune", "epochs"} and not app
    if tuner.strategy == "Auto":
        if points is not None and points <= FULL_JOBS:
            tuner.strategy = "Random"  # tries all points, each to its end
        elif predictive and not tuner.early_stopping:
            tuner.strategy = "Hyperband"
        else:
            tuner.strategy, tuner.early_stopping = "Bayesian", True
    epochs = [float(value) for p in parameters if p.bare_key == "epochs" for value in p.values]
    if epochs and not app and "max_epochs" in tuner and OmegaConf.is_interpolation(tuner, "max_epochs"):
        tuner.max_epochs = int(max(epochs))  # ${epochs} is the first value of the range
    if tuner.max_jobs is None and tuner.strategy != "Grid":
        tuner.max_jobs = HYPERBAND_JOBS if tuner.strategy == "Hyperband" else FULL_JOBS
    return cfg


def first_points(cfg: DictConfig, parameters: Sequence[SearchParameter]) -> list[Point]:
    """Returns the points of `cfg.first_points` that are in the search space and match the fixed settings, each once.

    A fixed choice (such as the optimizer) must equal the entry's. A searched number takes the entry's value, or the
    config's if the entry has none; if it is searched over choices, the nearest choice.

    Raises:
        UserError: An entry is not a mapping.
    """
    searched, points = {p.key for p in parameters}, []
    for entry in cfg.first_points:
        if not isinstance(entry, DictConfig):
            raise UserError(f"first_points: {entry} must be a mapping; type 'first_points=[{{lr:0.01}}]'")
        words = {str(key): value for key, value in entry.items() if isinstance(value, str) and key not in searched}
        if not searched & set(entry) or any(_fixed_word(cfg, key) != value for key, value in words.items()):
            continue
        values = {p.name: _nearest(p, entry.get(p.key), OmegaConf.select(cfg, p.bare_key)) for p in parameters}
        point = {name: value for name, value in values.items() if value is not None}
        if len(point) == len(parameters) and point not in points:
            points.append(point)
    return points


def _fixed_word(cfg: DictConfig, key: str) -> str:
    """Returns a fixed setting as text; for a group such as the optimizer, the name of its choice."""
    value = OmegaConf.select(cfg, key)
    return str(value._target_).rpartition(".")[2].lower() if isinstance(value, DictConfig) else str(value)


def _nearest(parameter: SearchParameter, entry: object, default: object) -> str | None:
    """Returns the value of a parameter that is nearest to the entry's, or to the default; None if there is none."""
    value = default if entry is None else entry
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if parameter.kind != "Categorical":
        low, high = map(float, parameter.values)
        if number is None or not low <= number <= high:
            return None
        return encode(int(number) if parameter.kind == "Integer" else float(number))
    if entry is None and number is None:
        return parameter.values[0]
    try:
        choices = {text: float(text) for text in parameter.values}
    except ValueError:
        return encode(value) if encode(value) in parameter.values else None
    if number is None:
        return None
    return min(choices, key=lambda text: abs(math.log(max(choices[text], 1e-9) / max(number, 1e-9))))
