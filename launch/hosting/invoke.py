"""One image to an endpoint and its answer back, with patience for an endpoint that is busy."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from botocore import exceptions as boto

from launch.backends.aws.errors import THROTTLED

CONTENT_TYPE = "application/x-image"
"""Whatever kind of image the bytes are."""
BUSY_STATUSES = frozenset({429, 503})
FAULTS = {"ServiceUnavailable", "InternalFailure", "InternalDependencyException", "ModelNotReadyException"}
BUSY_CODES = THROTTLED | FAULTS
PATIENCE_S = 60.0
"""How long a busy endpoint is asked again."""
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0


class Refused(Exception):
    """An endpoint has no answer about one image; the message is the reason."""

    def __init__(self, reason: str, fault_of_image: bool):
        super().__init__(reason)
        self.fault_of_image = fault_of_image


class Guess(NamedTuple):
    """A class, and how sure the model is of it."""

    label: str
    class_name: str
    confidence: float | None
    """0 to 1; None where the endpoint answers with the class's number alone."""


@dataclass(frozen=True)
class Answer:
    """What an endpoint says about one image."""

    best: Guess
    top: tuple[Guess, ...] = field(default=())
    """The most likely classes, `best` first."""


def read_answer(body: bytes) -> Answer:
    """Returns what the body of an endpoint's JSON answer says.

    Raises:
        Refused: it is no answer about an image.
    """
    try:
        found = json.loads(body)
        if isinstance(found, int):
            return Answer(Guess(str(found), "", None))
        best = Guess(str(found["predicted_label"]), str(found["class_name"]), float(found["confidence"]))
        top = (Guess(str(g["label"]), str(g["class_name"]), float(g["confidence"])) for g in found["top_k"])
        return Answer(best, tuple(top))
    except (ValueError, KeyError, TypeError):
        raise Refused(f"the endpoint's answer is not one about an image: {body[:80]!r}", False) from None


def ask(runtime: Any, name: str, image: bytes) -> Answer:
    """Returns what endpoint `name` says about an image; one that is busy is asked again.

    Args:
        runtime: boto3's sagemaker-runtime client; threads may share it.
        name: of the endpoint.
        image: the content of a JPEG, PNG or WebP file.

    Raises:
        Refused: the endpoint cannot read it, or failed on it.
        ClientError: there is no such endpoint, or it may not be asked.
    """
    began, wait_s = time.monotonic(), FIRST_WAIT_S
    while True:
        try:
            answer = runtime.invoke_endpoint(
                EndpointName=name, ContentType=CONTENT_TYPE, Accept="application/json", Body=image
            )
            return read_answer(answer["Body"].read())
        except boto.ClientError as error:
            if not _is_busy(error):
                if error.response["Error"]["Code"] == "ModelError":
                    raise _refusal(error) from error
                raise
            if time.monotonic() - began > PATIENCE_S:
                raise
        time.sleep(wait_s * random.uniform(0.5, 1))
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _is_busy(error: boto.ClientError) -> bool:
    code = error.response["Error"]["Code"]
    return code in BUSY_CODES or (code == "ModelError" and error.response.get("OriginalStatusCode") in BUSY_STATUSES)


def _refusal(error: boto.ClientError) -> Refused:
    status = int(error.response.get("OriginalStatusCode", 500))
    text = str(error.response.get("OriginalMessage", error))
    try:
        found = json.loads(text)
        text = str(found.get("error", text)) if isinstance(found, dict) else text
    except ValueError:  # plain text, as the inference toolkit has it
        pass
    if 400 <= status < 500:
        return Refused(" ".join(text.split()), True)
    return Refused(f"the endpoint failed on it ({status}): {' '.join(text.split())}", False)
