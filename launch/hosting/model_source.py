"""Finds the model of a training, of a trial, or of a sweep's best trial."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from dogbreed.errors import UserError
from launch.backends import Backend
from launch.backends.aws.errors import explain_failure
from launch.local.api.boto_client import local_client
from launch.local.jobs.container import LOCAL_BUCKET
from launch.runs.lookup import NotFoundError, describe
from launch.runs.results import read_best
from launch.spec.contract import Json
from launch.spec.requests.endpoint import TrainedModel
from launch.views.text import decimal

CARD = "model.json"
"""The model card that every model folder contains; see `dogbreed.serving`."""


def find_model(backend: Backend, name: str, out: Console) -> TrainedModel:
    """Returns the model of training, trial or sweep `name` (its best trial), or of `s3://BUCKET/.../model.tar.gz`.

    A training that AWS does not know may be one of this machine; its model is uploaded on deployment.

    A training that AWS does not know may be one of this machine; its model is uploaded on deployment.

    Raises:
        UserError: There is none of that name, or it has no model.
    """
    if name.startswith("s3://"):
        if not name.endswith(".tar.gz"):
            raise UserError(f"from_training={name}: give the model.tar.gz itself, s3://BUCKET/.../output/model.tar.gz")
        folder = name.rpartition("/")[0].removesuffix("/output")  # SageMaker's layout: JOBNAME/output/model.tar.gz
        return TrainedModel(folder.rpartition("/")[2], name)
    if backend.jobs_root is not None:
        return _find_locally(backend.client(), name, backend.jobs_root, out)
    try:
        return _find_job(backend.client(), name, out)
    except NotFoundError:
        root = Path(backend.settings.root)
        try:
            model = _find_locally(local_client(root), name, root, out)
        except NotFoundError:
            model = None
        if model is None:
            raise
    out.print(f"{name} is not on AWS but on this machine: uploading its model", soft_wrap=True)
    return model


def _find_locally(client: Any, name: str, root: Path, out: Console) -> TrainedModel:
    """Returns the model of a job on this machine, or of a `dogbreed.train` without the launcher."""
    card = root / name / "model" / CARD
    if card.is_file():
        return TrainedModel(name, f"{LOCAL_BUCKET}/{name}/model/", str(card.stat().st_mtime_ns), card.parent)
    model = _find_job(client, name, out)
    archive = root / model.url.removeprefix(f"{LOCAL_BUCKET}/")
    _check_archive(model.name, archive)
    return replace(model, path=archive)


def _find_job(client: Any, name: str, out: Console) -> TrainedModel:
    kind, job = describe(client, name)
    return _model_of(_describe_best_trial(client, name, out) if kind == "sweep" else job)


def _describe_best_trial(client: Any, name: str, out: Console) -> Json:
    sweep, best = read_best(client, name)
    point = " ".join(f"{key}={value}" for key, value in best.hyperparameters.items())
    so_far = "" if sweep.ended else " so far: the sweep is still running"
    score = f"{best.name}  {sweep.metric}={decimal(best.objective)}  {point}"
    out.print(f"the best trial of sweep {name}{so_far}: {score}", soft_wrap=True)
    job: Json = client.describe_training_job(TrainingJobName=best.name)
    return job


def _model_of(job: Json) -> TrainedModel:
    name, status = job["TrainingJobName"], job["TrainingJobStatus"]
    if status in ("InProgress", "Stopping"):
        raise UserError(f"training {name} has not ended yet ({status}): python -m launch.status {name} --follow")
    if status == "Failed":
        raise UserError(f"training {name} failed, it has no model: {explain_failure(job.get('FailureReason', ''))}")
    url = job.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if not url:
        raise UserError(f"training {name} has no model ({status}): train again, or choose another training")
    return TrainedModel(name, url, job["CreationTime"].isoformat())


def _check_archive(name: str, archive: Path) -> None:
    """Checks that a local archive contains a model that can be served.

    Raises:
        UserError: it does not.
    """
    advice = "train again, or choose another training"
    try:
        with tarfile.open(archive, "r|gz") as tar:
            if not any(member.name.removeprefix("./") == CARD for member in tar):
                raise UserError(f"training {name} has no model to serve ({archive} has no {CARD}): {advice}")
    except FileNotFoundError:
        raise UserError(f"training {name} has no model ({archive} does not exist): {advice}") from None
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(f"{archive} cannot be read ({error}): {advice}") from None
