"""Inside a job: `/opt/ml` and `SM_*` to Hydra overrides, then `dogbreed.train`.

    python -m launch.entry

Runs in SageMaker's container and, unchanged, as a process on this machine under the same contract
(https://docs.aws.amazon.com/sagemaker/latest/dg/amazon-sagemaker-toolkits.html).
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from dogbreed.errors import UserError
from launch.request import KEYS, OVERRIDES
from launch.space import encode


def job_overrides(hyperparameters: Mapping[str, str]) -> list[str]:
    """Returns the Hydra overrides that a job's hyperparameters stand for: the fixed ones, then the trial's own.

    Raises:
        UserError: the hyperparameters were not made by this launcher.
    """
    try:
        fixed = json.loads(hyperparameters.get(OVERRIDES, "[]"))
        keys = json.loads(hyperparameters.get(KEYS, "{}"))
    except json.JSONDecodeError as error:
        raise UserError(f"hyperparameters {OVERRIDES!r} and {KEYS!r} must be JSON: {error}") from None
    own = {
        name: value
        for name, value in hyperparameters.items()
        if name not in (OVERRIDES, KEYS) and not name.startswith(("sagemaker_", "_tuning_"))
    }
    return [*fixed, *(f"{keys.get(name, name)}={value}" for name, value in own.items())]


def folder_overrides(base: Path, environ: Mapping[str, str]) -> list[str]:
    """Returns the overrides that put a training's files where SageMaker collects them."""
    checkpoints = base / "checkpoints"
    places = {
        "name": environ.get("TRAINING_JOB_NAME", "job"),
        "output_dir": environ.get("SM_OUTPUT_DATA_DIR", str(base / "output" / "data")),
        "model_dir": environ.get("SM_MODEL_DIR", str(base / "model")),
        "checkpoint_dir": str(checkpoints),
    }
    if (checkpoints / "last.ckpt").is_file():  # a spot instance was taken away: go on where it stopped
        places["resume_from"] = str(checkpoints / "last.ckpt")
    return [f"{key}={encode(value)}" for key, value in places.items()]


def main() -> int:
    """Runs the job; returns its exit status. A failure's reason goes to output/failure, where SageMaker reads it."""
    base = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    try:
        hyperparameters = json.loads((base / "input" / "config" / "hyperparameters.json").read_text())
        from dogbreed.train import main as train  # here, so that importing this module costs no torch

        status = train([*job_overrides(hyperparameters), *folder_overrides(base, os.environ)])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return _fail(base, str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, SageMaker must be told
        traceback.print_exc()
        last = (str(error).strip().splitlines() or [""])[-1]
        return _fail(base, f"{type(error).__name__}: {last}")
    if status == 0:  # nothing is left to go on with, and the optimizer's state is twice the size of the model
        (base / "checkpoints" / "last.ckpt").unlink(missing_ok=True)
    return status


def _fail(base: Path, reason: str) -> int:
    failure = base / "output" / "failure"
    failure.parent.mkdir(parents=True, exist_ok=True)
    failure.write_text(reason[:1024])
    return 1


if __name__ == "__main__":
    sys.exit(main())
