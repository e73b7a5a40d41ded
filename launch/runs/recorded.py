"""Finds recorded runs, and reads overrides of the debugger's rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from dogbreed.debugger.read.download import download
from dogbreed.debugger.read.sources import run_folders
from dogbreed.errors import UserError, did_you_mean

OUTPUTS = Path("outputs")
_PREFIX = "debugger.rules."


def rule_settings(overrides: Sequence[str]) -> dict[str, Any] | None:
    """Returns the settings of `debugger.rules.NAME.SETTING=VALUE` overrides; None if there are none.

    Raises:
        UserError: Another key, or a value that is not YAML.
    """
    if not overrides:
        return None
    texts = [override.lstrip("+") for override in overrides]
    for text in texts:
        if not text.startswith(_PREFIX):
            raise UserError(f"{text.partition('=')[0]} is unknown; allowed: {_PREFIX}NAME.SETTING=VALUE")
    try:
        config = OmegaConf.to_container(OmegaConf.from_dotlist([text.removeprefix(_PREFIX) for text in texts]))
    except YAMLError as error:
        raise UserError(f"cannot read {' '.join(overrides)}: {' '.join(str(error).split())}") from None
    return {str(key): value for key, value in config.items()} if isinstance(config, dict) else None


def find_runs(name: str) -> list[Path]:
    """Returns the folders of the runs in a folder, under a name in outputs/, or under an S3 URL.

    Raises:
        UserError: There is no such run, or nothing was recorded in it.
    """
    if name.startswith("s3://"):
        folder = download(name, OUTPUTS)
    else:
        folder = Path(name) if Path(name).is_dir() else OUTPUTS / name
    if not folder.is_dir():
        names = [path.name for path in OUTPUTS.iterdir() if path.is_dir()] if OUTPUTS.is_dir() else []
        hint = did_you_mean(name, names) if names else "; outputs/ is empty"
        raise UserError(f"there is no run {name!r}{hint}")
    return run_folders(folder) or [folder]
