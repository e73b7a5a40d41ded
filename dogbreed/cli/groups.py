"""The config groups of `conf/` and their choices."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dogbreed.errors import did_you_mean


def conf_dir() -> Path:
    """Returns the folder of YAML files: next to the packages in a checkout, inside `dogbreed` when installed."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def choices(group: str) -> list[str]:
    """Returns the choices of a config group, sorted; [] if there is no such group."""
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml")) if group else []


def unknown_choice(group: str, name: str, options: Iterable[str]) -> str:
    """Returns the error message for an unknown choice of a group, with what to type instead."""
    if group == "data" and ("/" in name or name in (".", "..")):
        choice = {"s3": "data=s3 ", "demo": ""}.get(name.partition("://")[0], "data=folder ")
        return f"data={name}: give images by their address, type {choice}data.url={name}"
    hint = " (any timm model: model=timm model.name=NAME)" if group == "model" else ""
    return f"{group} '{name}' is unknown{did_you_mean(name, options)}{hint}"


@functools.cache
def default_choices(config_name: str) -> dict[str, str | None]:
    """Returns the config groups of `conf/CONFIG_NAME.yaml` and their default choices, included files last."""
    groups: dict[str, str | None] = {}
    for entry in OmegaConf.select(OmegaConf.load(conf_dir() / f"{config_name}.yaml"), "defaults", default=[]):
        if isinstance(entry, str) and (conf_dir() / f"{entry}.yaml").is_file():
            groups |= default_choices(entry)
        elif isinstance(entry, DictConfig):
            groups |= {str(group): choice for group, choice in entry.items()}
    return groups


def describe_choice(group: str, name: str) -> str:
    """Returns the comment at the top of a choice's file as one line; empty if there is none."""
    lines = (conf_dir() / group / f"{name}.yaml").read_text().splitlines()
    comments = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.lstrip("# ") for line in comments if not line.startswith("# @package"))
