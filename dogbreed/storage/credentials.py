"""Credentials as boto3 finds and renews them, and boto3's errors in words for a user."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

_CREDENTIALS_LIVE = timedelta(minutes=10)
"""How long workers use credentials before they ask boto3 again, which by itself renews those that expire."""


def provider(session: Any) -> Callable[[], dict[str, Any]]:
    """Returns what obstore calls for credentials, again whenever the last ones ran out."""
    credentials = session.get_credentials()

    def provide() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(timezone.utc) + _CREDENTIALS_LIVE,
        }

    return provide


def advice(error: Exception) -> str:
    """Returns boto3's error in one line, with what to do about the usual ones."""
    from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    if code in ("NoSuchBucket", "404"):
        return "there is no such bucket"
    if code in ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"):
        return f"{code}: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and the bucket's policy"
    if isinstance(error, NoCredentialsError):
        return "no AWS credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if isinstance(error, EndpointConnectionError):
        return f"{first_line(error)}; check data.endpoint_url and the network"
    return first_line(error)


def first_line(error: Exception) -> str:
    """Returns what an error says first."""
    return str(error).partition("\n")[0].strip()
