"""Requests to the endpoints of this machine: `invoke_endpoint` of a boto3 sagemaker-runtime client, and of others.

    client = local_runtime(Path("outputs"))
    client.invoke_endpoint(EndpointName="dogs", ContentType="image/jpeg", Body=photo)["Body"].read()

`forward` is SageMaker's part: it finds the endpoint's process by name, hands the request on, and wraps the refusals of
the model's server as SageMaker does.
"""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import Any

import urllib3
from botocore.awsrequest import AWSResponse
from botocore.config import Config

from launch.local.api.boto_client import plain_client
from launch.local.hosting.endpoints import FOLDER, look
from launch.local.job_state import ACCOUNT
from launch.local.job_store import LOG

PATH = re.compile(r"/endpoints/([^/]+)/invocations")
TIMEOUT_S = 60.0
"""How long SageMaker waits for the answer of a container."""
HANDED_ON = ("content-type", "accept")

Json = dict[str, Any]


def local_runtime(root: Path) -> Any:
    """Returns a boto3 sagemaker-runtime client whose requests go to the endpoints of this machine.

    Args:
        root: the folder that `local_client` was given.
    """
    config = Config(retries={"mode": "standard", "total_max_attempts": 1})
    client = plain_client("sagemaker-runtime", config=config)

    def send(request: Any, **_: Any) -> Any:
        answer = forward(root, request.url, request.headers, request.body)
        return AWSResponse(request.url, answer.status, answer.headers, answer)

    client.meta.events.register("before-send.sagemaker-runtime", send)
    return client


def forward(root: Path, url: str, headers: Mapping[str, Any] | Message, body: bytes) -> urllib3.BaseHTTPResponse:
    """Returns the answer to an HTTP request for `/endpoints/NAME/invocations`, its body not read yet.

    Args:
        root: the folder of the endpoints' jobs.
        url: of the request; whatever stands before its path.
        headers: of the request.
        body: of the request.
    """
    path = PATH.search(url)
    folder = root / FOLDER / (path[1] if path else "")
    sent = {name: _text(value) for name, value in headers.items() if name.lower() in HANDED_ON}
    for _ in range(2):  # a server that has just been replaced closes the connections that were kept open to it
        state = _state(folder)
        if "port" not in state:
            return _error(400, "ValidationError", f"Endpoint {folder.name} of account {ACCOUNT} not found.")
        place = f"http://127.0.0.1:{state['port']}/invocations"
        try:
            answer = _pool().request("POST", place, body=body, headers=sent, preload_content=False)
        except urllib3.exceptions.ReadTimeoutError:
            reason = "Your invocation timed out while waiting for a response from container primary"
            return _model_error(0, reason, folder)
        except urllib3.exceptions.HTTPError as error:
            lost = error
            continue
        if answer.status >= 300:
            return _model_error(answer.status, answer.data.decode(errors="replace"), folder)
        answer.headers["x-Amzn-Invoked-Production-Variant"] = state["variant"]
        return answer
    return _error(503, "ServiceUnavailable", f"the process of endpoint {folder.name} does not answer: {lost}")


def _state(folder: Path) -> Json:
    try:
        return look(folder)
    except FileNotFoundError:
        return {}


@functools.cache
def _pool() -> urllib3.PoolManager:
    """Returns the connections to the endpoints, kept open between requests."""
    timeout = urllib3.Timeout(connect=5, read=TIMEOUT_S)
    return urllib3.PoolManager(maxsize=64, timeout=timeout, retries=False)


def _model_error(status: int, message: str, folder: Path) -> urllib3.HTTPResponse:
    """Returns what SageMaker answers where the model's own server answered with an error."""
    side = "client" if 400 <= status < 500 else "server"
    return _error(
        424,
        "ModelError",
        f'Received {side} error ({status}) from primary with message "{message}". See {folder / LOG} for more.',
        OriginalStatusCode=status,
        OriginalMessage=message,
        LogStreamArn=str(folder / LOG),
    )


def _error(status: int, code: str, message: str, **more: Any) -> urllib3.HTTPResponse:
    body = json.dumps({"Message": message, **more}).encode()
    headers = {"x-amzn-errortype": code, "content-type": "application/json", "content-length": str(len(body))}
    return urllib3.HTTPResponse(io.BytesIO(body), headers=headers, status=status, preload_content=False)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
