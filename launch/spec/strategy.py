"""How a sweep searches: what `tuner=auto` comes to, and which points are tried first. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from dogbreed.errors import UserError
from launch.spec.contract import encode
from launch.spec.search_space import Range

MIN_EPOCHS = 3
"""Trainings shorter than that are not worth stopping."""

FULL_JOBS = 6
"""Trainings that a sweep may cost where nobody says how many."""

HYPERBAND_JOBS = 12
"""Trainings for the same cost where Hyperband stops most of them early."""

Point = dict[str, str]


def combinations(ranges: Sequence[Range]) -> int | None:
    """Returns how many points `ranges` have together; None where one of them is an interval."""
    if any(r.kind != "Categorical" for r in ranges):
        return None
    return math.prod(len(r.values) for r in ranges)


def resolve_strategy(cfg: DictConfig, ranges: Sequence[Range], app: bool = False) -> None:
    """Decides in `cfg.tuner` what is left open: the strategy, early stopping, Hyperband's epochs, the number of jobs.

    Hyperband judges a training by its first epochs. Those of a head on a frozen backbone tell how it will end; those of
    a whole network do not: the learning rate that is best after four epochs is often behind after one.

    Args:
        cfg: the settled config.
        ranges: what is searched.
        app: whether it is of another application, of whose epochs nothing is known.
    """
    tuner, keys, points = cfg.tuner, {r.bare_key for r in ranges}, combinations(ranges)
    telling = cfg.finetune == "head" and cfg.epochs >= MIN_EPOCHS and not keys & {"finetune", "epochs"} and not app
    if tuner.strategy == "Auto":
        if points is not None and points <= FULL_JOBS:
            tuner.strategy = "Random"  # all of them, each to its end
        elif telling and not tuner.early_stopping:
            tuner.strategy = "Hyperband"
        else:
            tuner.strategy, tuner.early_stopping = "Bayesian", True
    epochs = [float(value) for r in ranges if r.bare_key == "epochs" for value in r.values]
    if epochs and not app and "max_epochs" in tuner and OmegaConf.is_interpolation(tuner, "max_epochs"):
        tuner.max_epochs = int(max(epochs))  # ${epochs} would be the first of them
    if tuner.max_jobs is None:
        tuner.max_jobs = HYPERBAND_JOBS if tuner.strategy == "Hyperband" else FULL_JOBS


def first_points(cfg: DictConfig, ranges: Sequence[Range]) -> list[Point]:
    """Returns those of `cfg.first_points` that lie in `ranges` and suit what is fixed, as jobs get them, each once.

    A word that is fixed (the optimizer, what is finetuned) must be that of the entry. A number that is searched takes
    the entry's value, or the config's own; of choices, the nearest.

    Args:
        cfg: the settled config, nothing that is searched changed in it.
        ranges: what is searched.

    Raises:
        UserError: an entry is no mapping.
    """
    searched, found = {r.key for r in ranges}, []
    for entry in cfg.first_points:
        if not isinstance(entry, DictConfig):
            raise UserError(f"first_points: {entry} is no point; type 'first_points=[{{lr:0.01}}]'")
        words = {str(key): value for key, value in entry.items() if isinstance(value, str) and key not in searched}
        if not searched & set(entry) or any(_fixed(cfg, key) != value for key, value in words.items()):
            continue
        point = {r.name: _nearest(r, entry.get(r.key), OmegaConf.select(cfg, r.bare_key)) for r in ranges}
        whole = {name: value for name, value in point.items() if value is not None}
        if len(whole) == len(ranges) and whole not in found:
            found.append(whole)
    return found


def _fixed(cfg: DictConfig, key: str) -> str:
    """Returns a fixed word; of the optimizer, the name of its class, as conf/optimizer has it."""
    value = OmegaConf.select(cfg, key)
    return str(value._target_).rpartition(".")[2].lower() if isinstance(value, DictConfig) else str(value)


def _nearest(searched: Range, wanted: object, usual: object) -> str | None:
    """Returns the value of a range that stands for `wanted`, or for what is usual; None where it has none."""
    value = usual if wanted is None else wanted
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if searched.kind != "Categorical":
        low, high = map(float, searched.values)
        if number is None or not low <= number <= high:
            return None
        return encode(int(number) if searched.kind == "Integer" else float(number))
    if wanted is None and number is None:
        return searched.values[0]
    try:
        choices = {text: float(text) for text in searched.values}
    except ValueError:
        return encode(value) if encode(value) in searched.values else None
    if number is None:
        return None
    return min(choices, key=lambda text: abs(math.log(max(choices[text], 1e-9) / max(number, 1e-9))))
