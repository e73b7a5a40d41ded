"""Role, image and bucket of an endpoint on AWS, and the upload of a model that was trained on this machine."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from launch.backends.aws.account import Account
from launch.backends.aws.errors import api_errors
from launch.backends.base import Upload
from launch.local.jobs.training_job import pack_model
from launch.spec.requests.endpoint import EndpointTarget, TrainedModel

SERVERLESS_INSTANCE = "ml.m5.large"
"""Instance type whose image serverless endpoints use: like them, it has no GPU."""


def prepare_endpoint(cfg: DictConfig, model: TrainedModel) -> tuple[EndpointTarget, TrainedModel, Upload]:
    """Returns the target of the requests, the model as they refer to it, and the upload to run before they are sent.

    Raises:
        UserError: a setting is missing.
    """
    with api_errors(cfg):
        account = Account(cfg.backend, "inference")
        bucket, prefix = account.bucket(), str(cfg.backend.prefix).strip("/")
        instance = SERVERLESS_INSTANCE if cfg.serverless.memory_mb is not None else str(cfg.instance.type)
        output_path = f"s3://{bucket}/{prefix}".rstrip("/")
        target = EndpointTarget(account.role(), account.image(instance), output_path, account.region)
    if model.path is None:
        return target, model, lambda: None
    archive = _archive(model.path)
    key = f"{prefix}/models/{hashlib.sha256(archive).hexdigest()[:16]}/model.tar.gz".lstrip("/")

    def upload() -> None:
        with api_errors(cfg):
            account.check(bucket)
            account.put(bucket, key, archive)

    return target, replace(model, url=f"s3://{bucket}/{key}"), upload


def _archive(path: Path) -> bytes:
    """Returns the content of a model.tar.gz, or of a model folder packed as one."""
    if path.is_file():
        return path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "model" / "model.tar.gz"
        pack_model(path, archive)
        return archive.read_bytes()
