"""Where an endpoint runs: this machine, or the role, image and bucket of an AWS account."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from launch.backends.aws.errors import api_errors
from launch.backends.target import Account
from launch.local.jobs.training_job import pack_model
from launch.spec.requests.endpoint import Host, TrainedModel
from launch.spec.requests.training import LOCAL_SITE

LOCAL_HOST = Host(LOCAL_SITE.role_arn, LOCAL_SITE.training_image, LOCAL_SITE.output_path)
SERVERLESS_ON = "ml.m5.large"
"""Serverless endpoints have no GPU, so they take the image of any instance without one."""


def find_host(cfg: DictConfig, model: TrainedModel) -> tuple[Host, TrainedModel, Callable[[], None]]:
    """Returns where the endpoint runs, the model as the request names it there, and what must be called first.

    The model of a training on this machine is uploaded where the endpoint runs at AWS.

    Raises:
        UserError: something is missing; nothing has been uploaded then.
    """
    if cfg.backend.name == "local":
        return LOCAL_HOST, model, lambda: None
    with api_errors(cfg):
        account = Account(cfg.backend, "inference")
        bucket, prefix = account.bucket(), str(cfg.backend.prefix).strip("/")
        instance = str(cfg.instance.type) if cfg.serverless.memory_mb is None else SERVERLESS_ON
        place = f"{bucket}/{prefix}".rstrip("/")
        host = Host(account.role(), account.image(instance), f"s3://{place}", account.region)
    if model.path is None:
        return host, model, lambda: None
    archive = _archive(model.path)
    key = f"{place}/models/{hashlib.sha256(archive).hexdigest()[:16]}/model.tar.gz".partition("/")[2]

    def upload() -> None:
        with api_errors(cfg):
            account.check(bucket)
            account.put(bucket, key, archive)

    return host, replace(model, url=f"s3://{bucket}/{key}"), upload


def _archive(path: Path) -> bytes:
    """Returns the bytes of a model.tar.gz; of a model's folder they are made."""
    if path.is_file():
        return path.read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        pack_model(path, Path(scratch) / "model" / "model.tar.gz")
        return (Path(scratch) / "model" / "model.tar.gz").read_bytes()
