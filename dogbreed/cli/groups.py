"""The config groups of `conf/` and their choices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dogbreed.errors import did_you_mean


def conf_dir() -> Path:
    """Returns the folder of YAML files: beside the packages in a checkout, inside `dogbreed` when installed."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def choices(group: str) -> list[str]:
    """Returns the choices of a config group, sorted; none where there is no such group."""
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml")) if group else []


def unknown_choice(group: str, name: str, options: Sequence[str]) -> str:
    """Returns the line that says so, with what to type instead."""
    hint = " (any timm model: model=timm model.name=NAME)" if group == "model" else ""
    return f"{group} '{name}' is unknown{did_you_mean(name, options)}{hint}"


def describe_groups() -> str:
    """Returns the groups of `conf/`, a line each, with their choices."""
    groups = sorted(path.name for path in conf_dir().iterdir() if path.is_dir() and not path.name.startswith("_"))
    return "\n".join(f"  {group:<11} {', '.join(choices(group))}" for group in groups)
