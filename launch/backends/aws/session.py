"""boto3 sessions and clients for AWS, with the retry and timeout settings of the launcher."""

from __future__ import annotations

from typing import Any

from dogbreed.errors import UserError


def open_session(region: str | None) -> Any:
    """Returns a boto3 session in `region`; None uses the region of the AWS configuration.

    Raises:
        UserError: No region is configured.
    """
    import boto3

    session = boto3.Session(region_name=region)
    if session.region_name is None:
        raise UserError("no AWS region is configured: type backend.region=us-east-1, or set AWS_DEFAULT_REGION")
    return session


def make_client(service: str, region: str | None, **options: Any) -> Any:
    """Returns a boto3 client of an AWS service; `options` are further ones of botocore's Config.

    Raises:
        UserError: No region is configured.
    """
    return open_session(region).client(service, config=client_config(**options))


def client_config(**options: Any) -> Any:
    """Returns botocore's Config: eight attempts with backoff, as AWS recommends when it throttles."""
    from botocore.config import Config

    common = Config(retries={"mode": "standard", "total_max_attempts": 8}, connect_timeout=10, read_timeout=30)
    return common.merge(Config(**options))
