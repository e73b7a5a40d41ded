"""The plain files that a run leaves in its folder, and how they are written. No torch here.

    debug/run.json          what the run was started with, and what is known of the machine
    debug/records.jsonl     one line a record: names, tensors, losses, metrics, events, images
    debug/timings.jsonl     one line a block of training steps: where their time went
    debug/activations.npz   how often each node of the activation layers fired, newest count
    debug/predictions-SPLIT.npz, debug/thumbs/   probabilities, and small images of the worst mistakes
    debug/images.json     perceptual hashes of the images, and the unreadable ones
    debug/traces/           torch.profiler traces, on request
    profiler-output/        the machine every 500 ms, in SageMaker's layout
    debug-output/           tensors in smdebug's layout, where its hook is used
    report.html, report.json

Numbers in JSON lines may be NaN and Infinity, as Python's json module writes and reads them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

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
    """Writes JSON so that a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1), encoding="utf-8")
    part.replace(path)


def clear_debug(folder: Path) -> None:
    """Removes what an earlier run's recorder left in `folder`: our own files by name, nothing else."""
    for name in ("thumbs", "traces"):
        shutil.rmtree(folder / DEBUG / name, ignore_errors=True)
    for name in (RECORDS, RUN, ACTIVATIONS, IMAGES, "predictions-valid.npz", "predictions-test.npz"):
        (folder / DEBUG / name).unlink(missing_ok=True)
    for name in ("report.html", "report.json"):
        (folder / name).unlink(missing_ok=True)


def clear_profiler(folder: Path) -> None:
    """Removes what an earlier run's profiler left in `folder`."""
    shutil.rmtree(folder / PROFILER_OUTPUT, ignore_errors=True)
    (folder / DEBUG / TIMINGS).unlink(missing_ok=True)


def rounded(values: list[float], digits: int = 6) -> list[float]:
    """Returns the values with `digits` significant digits: a third of the text, and nothing a rule would miss."""
    return [float(f"{value:.{digits}g}") for value in values]


def run_name(folder: Path) -> str:
    """Returns the name that a run's `config.yaml` gives it; that of its folder where there is none to be read."""
    try:
        config = yaml.load((folder / "config.yaml").read_text(encoding="utf-8"), Loader=_YAML)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return folder.name
    return str(config["name"]) if isinstance(config, dict) and config.get("name") else folder.name
