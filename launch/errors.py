"""What AWS, or this machine in its place, refuses: one line that ends in what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from dogbreed.errors import UserError

ADVICE = {
    "ResourceInUse": "choose another name with name=NAME, or go on with a stopped sweep: resume=NAME",
    "ResourceNotFound": "python -m launch.status lists what there is",
    "ResourceLimitExceeded": "ask for a higher quota in the Service Quotas console, or take another instance type",
    "ThrottlingException": "AWS asks for fewer requests: try again in a minute",
    "ExpiredTokenException": "the credentials have expired: log in again",
    "AccessDeniedException": "the credentials in use lack this permission",
}
"""Error code to what one can do about it."""


@contextmanager
def api_errors() -> Iterator[None]:
    """Turns an error of the API client into a `UserError` with its message and the advice for it."""
    try:
        yield
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        advice = f"; {ADVICE[code]}" if code in ADVICE else ""
        raise UserError(f"{message.rstrip('.')} ({error.operation_name}: {code}){advice}") from error
    except NoCredentialsError as error:
        raise UserError("no AWS credentials were found: log in, or set AWS_PROFILE") from error
    except BotoCoreError as error:
        raise UserError(f"AWS can not be reached: {error}") from error
