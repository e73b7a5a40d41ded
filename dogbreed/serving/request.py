"""Parses the body of an inference request into the image files it contains."""

from __future__ import annotations

import base64
import binascii
import json
from typing import NamedTuple

JSON_TYPE = "application/json"

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/x-image")
"""Content types of a body that is one image; the actual format is detected from the bytes."""

MAX_BODY_BYTES = 25 * 2**20
"""Payload limit of SageMaker's real-time endpoints."""

MAX_IMAGES = 64
"""Images per request."""


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        status: HTTP status.
        reason: One line for the client.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class InferenceRequest(NamedTuple):
    """The images of one request, not decoded yet."""

    images: list[bytes]
    """Content of each image file."""
    is_batch: bool
    """Whether the client sent a list, which is then answered with a list."""


def parse_request(body: bytes | str, content_type: str | None) -> InferenceRequest:
    """Returns the images of a request's body.

    Args:
        body: str if the server has decoded JSON already.
        content_type: Value of the Content-Type header, parameters allowed; None if there is no such header.

    Raises:
        RequestError: 415 for another content type, 413 for too many bytes or images, 400 for a malformed body.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind not in (*IMAGE_TYPES, JSON_TYPE):
        given = f"content type {kind!r}" if kind else "no content type"
        raise RequestError(415, f"{given}; allowed: {', '.join((*IMAGE_TYPES, JSON_TYPE))}")
    if len(body) > MAX_BODY_BYTES:
        raise body_too_large(len(body))
    if kind == JSON_TYPE:
        return _parse_json(body)
    if not body:
        raise RequestError(400, "the body is empty")
    return InferenceRequest([body if isinstance(body, bytes) else body.encode()], is_batch=False)


def body_too_large(num_bytes: int) -> RequestError:
    """Returns the error for a body of `num_bytes`."""
    return RequestError(413, f"the body has {num_bytes:,} bytes; at most {MAX_BODY_BYTES:,}")


def _parse_json(body: bytes | str) -> InferenceRequest:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(400, f"the body is not valid JSON: {reason}") from None
    if isinstance(content, dict) and set(content) == {"image"}:
        return InferenceRequest([_decode_base64(content["image"], "image")], is_batch=False)
    if not isinstance(content, dict) or set(content) != {"instances"} or not isinstance(content["instances"], list):
        raise RequestError(400, 'the JSON must be {"image": "<base64>"} or {"instances": ["<base64>", ...]}')
    instances = content["instances"]
    if not instances:
        raise RequestError(400, "instances is empty")
    if len(instances) > MAX_IMAGES:
        raise RequestError(413, f"{len(instances)} instances; at most {MAX_IMAGES} in one request")
    texts = [item.get("image") if isinstance(item, dict) else item for item in instances]
    images = [_decode_base64(text, f"instances[{index}]") for index, text in enumerate(texts)]
    return InferenceRequest(images, is_batch=True)


def _decode_base64(text: object, field: str) -> bytes:
    if not isinstance(text, str):
        raise RequestError(400, f"{field} must be base64 text, not {type(text).__name__}")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"{field} is not valid base64: {error}") from None
