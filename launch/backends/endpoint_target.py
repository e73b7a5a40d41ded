"""Role, image and bucket of an endpoint on AWS, and the upload of a model that was trained on this machine."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from launch.backends.aws.account import Account
from launch.backends.aws.errors import api_errors
from launch.local.jobs.training_job import pack_model
from launch.spec.requests.endpoint import EndpointTarget, TrainedModel

SERVERLESS_ON = "ml.m5.large"
"""Serverless endpoints have no GPU, so they take the image of any instance without one."""


def prepare_endpoint(cfg: DictConfig, model: TrainedModel) -> tuple[EndpointTarget, TrainedModel, Callable[[], None]]:
    """Returns what the requests must name, the model as they name it, and the upload to run before they are sent.

    Raises:
        UserError: A setting is missing.
    """
    with api_errors(cfg):
        account = Account(cfg.backend, "inference")
        bucket, prefix = account.bucket(), str(cfg.backend.prefix).strip("/")
        instance = str(cfg.instance.type) if cfg.serverless.memory_mb is None else SERVERLESS_ON
        place = f"{bucket}/{prefix}".rstrip("/")
        target = EndpointTarget(account.role(), account.image(instance), f"s3://{place}", account.region)
    if model.path is None:
        return target, model, lambda: None
    archive = _archive(model.path)
    key = f"{place}/models/{hashlib.sha256(archive).hexdigest()[:16]}/model.tar.gz".partition("/")[2]

    def upload() -> None:
        with api_errors(cfg):
            account.check(bucket)
            account.put(bucket, key, archive)

    return target, replace(model, url=f"s3://{bucket}/{key}"), upload


def _archive(path: Path) -> bytes:
    """Returns the bytes of a model.tar.gz; of a model's folder they are made."""
    if path.is_file():
        return path.read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        pack_model(path, Path(scratch) / "model" / "model.tar.gz")
        return (Path(scratch) / "model" / "model.tar.gz").read_bytes()
