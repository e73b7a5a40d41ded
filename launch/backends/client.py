"""The client that a request is handed to: boto3's for AWS, or boto3's answered on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dogbreed.errors import UserError, did_you_mean


def make_client(backend: DictConfig) -> Any:
    """Returns a boto3 SageMaker client; nothing else in `launch` knows which one it has.

    Args:
        backend: the `backend` node of the config: its `name`, and the `root` of the jobs on this machine or the
            `region` at AWS.

    Raises:
        UserError: no such backend, a root that is no folder, or no AWS region is configured.
    """
    if backend.name == "local":
        from launch.local import local_client

        if not isinstance(backend.root, str):
            raise UserError(f"backend.root={backend.root}: give the folder of the jobs, as in backend.root=outputs")
        if os.path.isfile(backend.root):  # noqa: PTH113 - Path.is_file() raises where it may not look
            raise UserError(f"backend.root={backend.root} is a file: give a folder, or where one can be made")
        return local_client(Path(backend.root))
    if backend.name == "sagemaker":
        return aws_client("sagemaker", backend)
    raise UserError(f"backend={backend.name} is unknown{did_you_mean(backend.name, ['local', 'sagemaker'])}")


def make_runtime(backend: DictConfig) -> Any:
    """Returns a boto3 sagemaker-runtime client, which asks endpoints.

    Args:
        backend: as of `make_client`.

    Raises:
        UserError: no AWS region is configured.
    """
    if backend.name == "local":
        from launch.local import local_runtime

        return local_runtime(Path(backend.root))
    return aws_client("sagemaker-runtime", backend, read_timeout=70, max_pool_connections=64)


def aws_client(service: str, backend: DictConfig, **options: Any) -> Any:
    """Returns boto3's client of an AWS service in the backend's region.

    Args:
        service: by boto3's name.
        backend: the `backend` node of the config.
        options: of botocore's Config, over those of every client.

    Raises:
        UserError: no region is configured.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import NoRegionError

    from launch.backends.target import client_config

    try:
        return boto3.Session(region_name=backend.region).client(
            service, config=client_config().merge(Config(**options))
        )
    except NoRegionError:
        raise UserError(
            "no AWS region is configured: type backend.region=us-east-1, or set AWS_DEFAULT_REGION"
        ) from None
