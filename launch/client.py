"""The client that a request is handed to: boto3's for AWS, or boto3's answered on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dogbreed.errors import UserError, did_you_mean


def make_client(backend: str, root: Path) -> Any:
    """Returns a boto3 SageMaker client; nothing else in `launch` knows which one it has.

    Args:
        backend: `local` or `sagemaker`.
        root: the folder of the jobs run on this machine.

    Raises:
        UserError: no such backend, or no AWS region is configured.
    """
    if backend == "local":
        from launch.local import local_client

        return local_client(root)
    if backend == "sagemaker":
        import boto3
        from botocore.exceptions import NoRegionError

        try:
            return boto3.client("sagemaker")
        except NoRegionError:
            raise UserError("no AWS region is configured; set AWS_DEFAULT_REGION, such as us-east-1") from None
    raise UserError(f"backend={backend} is unknown{did_you_mean(backend, ['local', 'sagemaker'])}")
