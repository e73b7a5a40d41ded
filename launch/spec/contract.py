"""The contract between the launcher and a job: hyperparameter names, channels, and how values travel as text.

A job imports this module and `dogbreed` only. Values are written in Hydra's override grammar, so `KEY=VALUE` means the
same in the job as on the command line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.types import QuotedString

from dogbreed.errors import UserError

Json = dict[str, Any]
"""A request, a response or a part of one, as boto3 takes and returns it."""

OVERRIDES = "overrides"
"""Hyperparameter that holds the fixed overrides, a JSON list."""

KEYS = "keys"
"""Hyperparameter that maps names of searched hyperparameters to config keys, where the two differ; a JSON object."""

APP = "app"
"""Hyperparameter that names another Hydra application, which runs instead of `dogbreed.train`; see `app_program`."""

FIRST_POINTS = "first_points"
"""Hyperparameter that lists the points to try first, as JSON; only the search on this machine reads it."""

RESERVED = frozenset({APP, FIRST_POINTS, KEYS, OVERRIDES})
"""Hyperparameters of the launcher; all others of a job are its point in the search space."""

TUNING_METRIC = "_tuning_objective_metric"
"""Hyperparameter by which AMT gives each trial the name of the objective metric."""

SAGEMAKER_PREFIXES = ("sagemaker_", "_tuning_")
"""Prefixes of SageMaker's own hyperparameters."""

DATA, WEIGHTS, CODE = "data", "weights", "code"
"""Channels: images, pretrained weights, and the code if the job cannot download it."""

PROGRAM = "run_job.py"
"""The file at the root of the code archive that SageMaker's training toolkit runs."""

RETURN_METRIC = "objective"
"""Name of the metric line that reports the return value of another Hydra application."""


def app_program(app: str) -> list[str]:
    """Returns what follows `python` to run an application: `SCRIPT`, or `-m MODULE` for `-m MODULE@FOLDER`."""
    return ["-m", app.removeprefix("-m ").partition("@")[0]] if app.startswith("-m ") else [app]


def encode(value: Any) -> str:
    """Returns `value` as text that Hydra's grammar parses to the same value of the same type.

    Strings that would be parsed as something else (`"1"`, `"null"`, `"a b"`) are quoted.
    """
    if isinstance(value, QuotedString):
        value = value.text
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _encode_text(value)
    return _encode_nested(value)


def job_overrides(hyperparameters: Mapping[str, str]) -> list[str]:
    """Returns the Hydra overrides that a job's hyperparameters stand for: the fixed ones, then the trial's own.

    Raises:
        UserError: The hyperparameters were not written by this launcher.
    """
    try:
        fixed = json.loads(hyperparameters.get(OVERRIDES, "[]"))
        keys = json.loads(hyperparameters.get(KEYS, "{}"))
    except json.JSONDecodeError as error:
        raise UserError(f"hyperparameters {OVERRIDES!r} and {KEYS!r} must be JSON: {error}") from None
    point = {
        name: value
        for name, value in hyperparameters.items()
        if name not in RESERVED and not name.startswith(SAGEMAKER_PREFIXES)
    }
    return [*fixed, *(f"{keys.get(name, name)}={value}" for name, value in point.items())]


def _encode_text(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_][\w./:@%+-]*", text, re.ASCII)
    return text if plain and text.lower() not in ("null", "true", "false", "nan", "inf") else _quoted(text)


def _quoted(text: str) -> str:
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{chr(92) * trailing}'"


def _encode_nested(value: Any) -> str:
    """Returns an item of a list or dict, or a number; every string in it is quoted, keys are escaped."""
    if isinstance(value, QuotedString):
        value = value.text
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        return f"[{','.join(map(_encode_nested, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_encode_key(key)}:{_encode_nested(item)}' for key, item in value.items())}}}"
    return "null" if value is None else str(value)


def _encode_key(key: Any) -> str:
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", str(key))
