"""The launcher's own settings (backend, instance, tuner): checked before anything is made of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from omegaconf import DictConfig, ListConfig, OmegaConf

from dogbreed.cli.config import compose as compose_config
from dogbreed.errors import UserError, did_you_mean
from launch.spec.naming import RESERVED_NAMES

ANY = math.inf
NUMBERS: dict[str, tuple[type, float, float, bool]] = {
    "instance.count": (int, 1, ANY, False),
    "instance.volume_gb": (int, 1, ANY, False),
    "instance.max_hours": (float, 1 / 3600, 28 * 24, False),
    "instance.max_wait_hours": (float, 1 / 3600, 28 * 24, True),
    "instance.retries": (int, 0, 30, False),
    "instance.keep_alive_minutes": (float, 0, 360, False),
    "instance.price_per_hour": (float, 0, ANY, True),
    "tuner.max_jobs": (int, 1, ANY, True),
    "tuner.max_parallel_jobs": (int, 1, ANY, False),
    "tuner.max_hours": (float, 1 / 30, 4380, True),
    "tuner.target": (float, -ANY, ANY, True),
    "tuner.patience": (int, 3, ANY, True),
    "tuner.min_epochs": (int, 1, ANY, False),
    "tuner.max_epochs": (int, 1, ANY, False),
    "tuner.seed": (int, 0, ANY, True),
    "top_k": (int, 1, ANY, False),
    "serverless.memory_mb": (int, 1024, 6144, True),
    "serverless.max_concurrency": (int, 1, 200, False),
    "autoscaling.max_count": (int, 1, ANY, True),
    "autoscaling.min_count": (int, 1, ANY, False),
    "autoscaling.requests_per_minute": (float, 0.1, ANY, False),
    "data_capture.percent": (int, 0, 100, False),
    "in_flight": (int, 1, 256, False),
}
"""Key, type, lowest and highest value, and whether it may be null."""

BOOLEANS = (
    "dry_run", "logs",
    "instance.spot", "tuner.early_stopping", "tuner.until_converged", "tuner.autotune",
    "backend.network_isolation", "backend.encrypt_traffic",
)  # fmt: skip
LISTS = ("first_points", "instance.alternatives", "tuner.warm_start", "backend.subnets", "backend.security_groups")
MAPS = ("sweep", "backend.environment", "backend.tags", "environment")

CHOICES: dict[str, tuple[str | None, ...]] = {
    "tuner.warm_start_type": ("IdenticalDataAndAlgorithm", "TransferLearning"),
    "backend.input_mode": (None, "FastFile", "File"),
    "answer": ("label", "index"),
}


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Returns a config of the launcher composed with Hydra `overrides`, every value checked.

    Args:
        config_name: `tune`, `training`, `deploy` or `predict`.
        overrides: as they are typed.

    Raises:
        UserError: an override cannot be parsed, names an unknown key or choice, or gives a value that is not allowed.
    """
    cfg = compose_config(config_name, overrides)
    check_settings(cfg)
    return cfg


def check_settings(cfg: DictConfig) -> None:
    """Checks those settings of the launcher that `cfg` has.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    for problem in _problems(cfg):
        raise UserError(problem)


def _problems(cfg: DictConfig) -> Iterator[str]:
    if "trainer" in cfg and cfg.name in RESERVED_NAMES:  # an endpoint itself may be called so
        yield f"name={cfg.name}: the folder of that name is for other things; choose another name"
    for key, (kind, low, high, optional) in NUMBERS.items():
        value = OmegaConf.select(cfg, key)
        if value is None and (optional or not _has(cfg, key)):
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or (kind is int and value % 1 != 0) or not low <= value <= high:
            upper = "" if high == ANY else f" and at most {high:g}"
            lower = "" if low == -ANY else f" of at least {low:.4g}"
            yield f"{key}={value}: must be a {'whole ' if kind is int else ''}number{lower}{upper}"
    for key in BOOLEANS:
        if _has(cfg, key) and not isinstance(OmegaConf.select(cfg, key), bool):
            yield f"{key}={OmegaConf.select(cfg, key)}: must be true or false"
    for key in LISTS:
        if _has(cfg, key) and not isinstance(OmegaConf.select(cfg, key), ListConfig):
            yield f"{key}={OmegaConf.select(cfg, key)}: must be a list, type '{key}=[a,b]'"
    for key in MAPS:
        if _has(cfg, key) and not isinstance(OmegaConf.select(cfg, key), DictConfig):
            yield f"{key}={OmegaConf.select(cfg, key)}: give each entry by its name, type +{key}.NAME=VALUE"
    for key, allowed in CHOICES.items():
        value = OmegaConf.select(cfg, key)
        if _has(cfg, key) and value not in allowed:
            yield f"{key}={value}: not allowed{did_you_mean(str(value), ['null' if a is None else a for a in allowed])}"


def _has(cfg: DictConfig, key: str) -> bool:
    group, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, group) if group else cfg
    return node is not None and leaf in node
