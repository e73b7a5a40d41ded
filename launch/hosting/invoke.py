"""Sends one image to an endpoint, with retries while the endpoint is busy."""

from __future__ import annotations

import json
import random
import time
from typing import Any

from botocore import exceptions as boto

from launch.backends.aws.errors import NETWORK_ERRORS, THROTTLED
from launch.spec.prediction import Prediction, parse_prediction

CONTENT_TYPE = "application/x-image"
"""Any image format; the endpoint detects it."""

BUSY_STATUSES = frozenset({429, 503})
BUSY_CODES = THROTTLED | {
    "ServiceUnavailable", "InternalFailure", "InternalDependencyException", "ModelNotReadyException",
}  # fmt: skip

RETRY_TIMEOUT_S = 60.0
"""How long a busy or unreachable endpoint is retried."""

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0


class InvocationError(Exception):
    """An endpoint has no prediction for one image.

    Args:
        reason: One line.
        is_image_fault: Whether the image is the reason, so that another attempt cannot succeed.
    """

    def __init__(self, reason: str, is_image_fault: bool):
        super().__init__(reason)
        self.is_image_fault = is_image_fault


def invoke(runtime: Any, name: str, image: bytes) -> Prediction:
    """Returns the prediction of endpoint `name` for an image file; retries with backoff while the endpoint is busy.

    The only retries of an invocation: botocore would not retry a busy model server, and the local client retries
    nothing, so the backend's runtime clients make one attempt.

    Raises:
        InvocationError: the endpoint cannot read the image, or failed on it.
        ClientError: there is no such endpoint, or these credentials may not invoke it.
    """
    started, backoff_s = time.monotonic(), FIRST_BACKOFF_S
    while True:
        try:
            response = runtime.invoke_endpoint(
                EndpointName=name, ContentType=CONTENT_TYPE, Accept="application/json", Body=image
            )
            return parse_prediction(response["Body"].read())
        except ValueError as error:
            raise InvocationError(str(error), is_image_fault=False) from error
        except (boto.ClientError, *NETWORK_ERRORS) as error:
            if not _is_busy(error) or time.monotonic() - started > RETRY_TIMEOUT_S:
                if _code(error) == "ModelError":
                    raise _invocation_error(error) from error
                raise
        time.sleep(backoff_s * random.uniform(0.5, 1))
        backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)


def _code(error: Exception) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, boto.ClientError) else ""


def _is_busy(error: Exception) -> bool:
    if not isinstance(error, boto.ClientError):
        return True
    code, status = _code(error), error.response.get("OriginalStatusCode")
    return code in BUSY_CODES or (code == "ModelError" and status in BUSY_STATUSES)


def _invocation_error(error: Any) -> InvocationError:
    status = int(error.response.get("OriginalStatusCode", 500))
    text = str(error.response.get("OriginalMessage", error))
    try:
        content = json.loads(text)
        text = str(content.get("error", text)) if isinstance(content, dict) else text
    except ValueError:  # the inference toolkit answers in plain text
        pass
    reason = " ".join(text.split())
    if 400 <= status < 500 and status not in BUSY_STATUSES:
        return InvocationError(reason, is_image_fault=True)
    return InvocationError(f"the endpoint failed ({status}): {reason}", is_image_fault=False)
