"""AWS credentials as boto3 resolves and refreshes them, and boto3's errors as messages for the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from dogbreed.errors import UserError

_CREDENTIALS_LIFETIME = timedelta(minutes=10)
"""How long workers use credentials before they ask boto3 again, which refreshes those that expire."""


def credential_provider(session: Any) -> Callable[[], dict[str, Any]]:
    """Returns obstore's credential callback for a boto3 session; obstore calls it again after `expires_at`."""
    credentials = session.get_credentials()

    def provide() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(timezone.utc) + _CREDENTIALS_LIFETIME,
        }

    return provide


@contextmanager
def user_errors(what: str) -> Iterator[None]:
    """Converts boto3's errors in the block to `UserError(f"{what}: {advice}")`."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise UserError(f"{what}: {advice(error)}") from error


def advice(error: Exception) -> str:
    """Returns one line for an error of boto3 or obstore, with the fix for common ones."""
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
    """Returns the first line of an error's message."""
    return str(error).partition("\n")[0].strip()
