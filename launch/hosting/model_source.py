"""The model that a name stands for: of a training, of a trial, of a sweep's best trial, at AWS or on this machine."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from dogbreed.errors import UserError
from launch.backends import open_backend
from launch.backends.aws.errors import explain_failure
from launch.local import local_client
from launch.local.job_state import is_job
from launch.local.jobs.container import LOCAL_BUCKET
from launch.local.tuning.trials import training_folder
from launch.runs.lookup import describe
from launch.runs.results import read_best
from launch.spec.requests.endpoint import TrainedModel
from launch.views.text import decimal

CARD = "model.json"
"""What every model folder holds: see dogbreed.serving."""


def find_trained(client: Any, name: str, cfg: DictConfig, out: Console) -> TrainedModel:
    """Returns the model that `name` stands for, and says which was taken where that is not plain.

    Args:
        client: boto3's sagemaker client.
        name: of a training, a trial or a sweep; or `s3://BUCKET/.../model.tar.gz`.
        cfg: its backend.
        out: where it is said.

    Raises:
        UserError: there is none of that name, or it has left no model.
    """
    if name.startswith("s3://"):
        if not name.endswith(".tar.gz"):
            raise UserError(f"from_training={name}: give the model.tar.gz itself, s3://BUCKET/.../output/model.tar.gz")
        folder = name.rpartition("/")[0].removesuffix("/output")  # SageMaker's layout: JOBNAME/output/model.tar.gz
        return TrainedModel(folder.rpartition("/")[2], name)
    root = Path(cfg.backend.root)
    if open_backend(cfg).jobs_root is not None:
        return _find_here(client, name, root, out)
    try:
        return _find_job(client, name, out)
    except UserError:
        if not is_job(training_folder(root.absolute(), name)) and not (root / name / "model" / CARD).is_file():
            raise
    out.print(f"{name} is not at AWS but on this machine: its model is uploaded", soft_wrap=True)
    return _find_here(local_client(root), name, root, out)


def _find_here(client: Any, name: str, root: Path, out: Console) -> TrainedModel:
    """Returns the model of something that ran on this machine, a plain `dogbreed.train` included."""
    card = root / name / "model" / CARD
    if card.is_file():
        return TrainedModel(name, f"{LOCAL_BUCKET}/{name}/model/", str(card.stat().st_mtime_ns), card.parent)
    trained = _find_job(client, name, out)
    archive = root / trained.url.removeprefix(f"{LOCAL_BUCKET}/")
    _check_archive(trained.name, archive)
    return replace(trained, path=archive)


def _find_job(client: Any, name: str, out: Console) -> TrainedModel:
    kind, job = describe(client, name)
    return _model_of(_best_of(client, name, out) if kind == "sweep" else job)


def _best_of(client: Any, name: str, out: Console) -> dict[str, Any]:
    """Returns the description of a sweep's best trial."""
    sweep, best = read_best(client, name)
    found = " ".join(f"{key}={value}" for key, value in best.hyperparameters.items())
    still = "" if sweep.ended else " so far: the sweep goes on"
    shown = f"{best.name}  {sweep.metric}={decimal(best.objective)}  {found}"
    out.print(f"the best trial of sweep {name}{still}: {shown}", soft_wrap=True)
    job: dict[str, Any] = client.describe_training_job(TrainingJobName=best.name)
    return job


def _model_of(job: dict[str, Any]) -> TrainedModel:
    name, status = job["TrainingJobName"], job["TrainingJobStatus"]
    if status in ("InProgress", "Stopping"):
        raise UserError(f"training {name} has not ended yet ({status}): python -m launch.status {name} --follow")
    if status == "Failed":
        raise UserError(
            f"training {name} has left no model, it failed: {explain_failure(job.get('FailureReason', ''))}"
        )
    url = job.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if not url:
        raise UserError(f"training {name} has left no model ({status}): train again, or take another")
    return TrainedModel(name, url, job["CreationTime"].isoformat())


def _check_archive(name: str, archive: Path) -> None:
    """Checks that an archive on this machine holds a model that can be served."""
    advice = f"train again: python -m launch.train; or take another training than {name}"
    try:
        with tarfile.open(archive, "r|gz") as tar:
            if not any(member.name.removeprefix("./") == CARD for member in tar):
                raise UserError(f"training {name} has left no model to serve ({archive} has no {CARD}); {advice}")
    except FileNotFoundError:
        raise UserError(f"training {name} has left no model ({archive} is not there); {advice}") from None
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(f"{archive} cannot be read ({error}); {advice}") from None
