"""Names of the files in a run's folder, and functions that write them. No torch here.

debug/run.json          what the run was started with, and on which machine
debug/records.jsonl     one line per record: names, tensors, losses, metrics, events, input images
debug/timings.jsonl     one line per block of training steps: where their time went; heartbeats; phases
debug/activations.npz   how often each node of the activation layers was active, latest count
debug/predictions-SPLIT.npz, debug/thumbs/   probabilities, and thumbnails of the worst mistakes
debug/images.json       perceptual hashes of the images, and unreadable images
debug/traces/           torch.profiler traces, on request
profiler-output/        system metrics, in SageMaker's layout
debug-output/           tensors in smdebug's layout, if its hook is enabled
report.html, report.json
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dogbreed.system.atomic import atomic_write

_YAML: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast

DEBUG = "debug"
RECORDS = "records.jsonl"
TIMINGS = "timings.jsonl"
RUN = "run.json"
ACTIVATIONS = "activations.npz"
IMAGES = "images.json"
PROFILER_OUTPUT = "profiler-output"
DEBUG_OUTPUT = "debug-output"


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; missing parent folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1)
    atomic_write(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_npz(path: Path, arrays: Mapping[str, Any], *, compress: bool = True) -> None:
    """Writes an npz archive atomically; missing parent folders are created."""

    def write(part: Path) -> None:
        with part.open("wb") as file:  # NumPy would append .npz to a path
            (np.savez_compressed if compress else np.savez)(file, **arrays)

    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, write)


def clear_debug(folder: Path) -> None:
    """Removes the records and the report of an earlier run in `folder`, by name; other files stay."""
    for name in ("thumbs", "traces"):
        shutil.rmtree(folder / DEBUG / name, ignore_errors=True)
    for name in (RECORDS, RUN, ACTIVATIONS, IMAGES, "predictions-val.npz", "predictions-test.npz"):
        (folder / DEBUG / name).unlink(missing_ok=True)
    for name in ("report.html", "report.json"):
        (folder / name).unlink(missing_ok=True)


def clear_profiler(folder: Path) -> None:
    """Removes the profile of an earlier run in `folder`."""
    shutil.rmtree(folder / PROFILER_OUTPUT, ignore_errors=True)
    (folder / DEBUG / TIMINGS).unlink(missing_ok=True)


def rounded(values: list[float], digits: int = 6) -> list[float]:
    """Returns the values with `digits` significant digits, which takes a third of the text."""
    return [float(f"{value:.{digits}g}") for value in values]


def run_name(folder: Path) -> str:
    """Returns the `name` in the run's `config.yaml`, else the folder's name."""
    config = _read_yaml(folder / "config.yaml")
    return str(config["name"]) if isinstance(config, dict) and config.get("name") else folder.name


def run_command(folder: Path) -> str:
    """Returns the command that trains the same again, "" if the run's `overrides.yaml` does not exist."""
    overrides = _read_yaml(folder / "overrides.yaml")
    return shlex.join(["python", "-m", "dogbreed.train", *map(str, overrides)]) if isinstance(overrides, list) else ""


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_YAML)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
