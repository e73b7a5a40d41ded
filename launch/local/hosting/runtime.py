"""Invocations of endpoints on this machine: a boto3 sagemaker-runtime client, and the HTTP request behind it.

    client = local_runtime(Path("outputs"))
    client.invoke_endpoint(EndpointName="dogs", ContentType="image/jpeg", Body=photo)["Body"].read()

`forward` stands in for SageMaker: it finds the endpoint's process by name, forwards the request and wraps errors of the
model server as SageMaker does.
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
from launch.local.hosting.endpoints import FOLDER, read_endpoint
from launch.local.job_store import ACCOUNT, LOG

PATH = re.compile(r"/endpoints/([^/]+)/invocations")
TIMEOUT_S = 60.0
"""Seconds that SageMaker waits for the response of a container."""
FORWARDED_HEADERS = ("content-type", "accept")


def local_runtime(root: Path) -> Any:
    """Returns a boto3 sagemaker-runtime client of the endpoints of `local_client(root)`."""
    config = Config(retries={"mode": "standard", "total_max_attempts": 1})
    client = plain_client("sagemaker-runtime", config=config)

    def send(request: Any, **_: Any) -> Any:
        response = forward(root, request.url, request.headers, request.body)
        return AWSResponse(request.url, response.status, response.headers, response)

    client.meta.events.register("before-send.sagemaker-runtime", send)
    return client


def forward(root: Path, url: str, headers: Mapping[str, Any] | Message, body: bytes) -> urllib3.BaseHTTPResponse:
    """Forwards an HTTP request for `/endpoints/NAME/invocations`; returns the response with its body unread."""
    path = PATH.search(url)
    folder = root / FOLDER / (path[1] if path else "")
    sent = {name: _text(value) for name, value in headers.items() if name.lower() in FORWARDED_HEADERS}
    for _ in range(2):  # an update closes the pooled connections to the previous server
        try:
            state = read_endpoint(folder)
        except FileNotFoundError:
            state = {}
        if "port" not in state:
            return _error(400, "ValidationError", f"Endpoint {folder.name} of account {ACCOUNT} not found.")
        address = f"http://127.0.0.1:{state['port']}/invocations"
        try:
            response = _pool().request("POST", address, body=body, headers=sent, preload_content=False)
        except urllib3.exceptions.ReadTimeoutError:
            reason = "Your invocation timed out while waiting for a response from container primary"
            return _model_error(0, reason, folder)
        except urllib3.exceptions.HTTPError as error:
            failure = error
            continue
        if response.status >= 300:
            return _model_error(response.status, response.data.decode(errors="replace"), folder)
        response.headers["x-Amzn-Invoked-Production-Variant"] = state["variant"]
        return response
    return _error(503, "ServiceUnavailable", f"the process of endpoint {folder.name} does not respond: {failure}")


@functools.cache
def _pool() -> urllib3.PoolManager:
    """Returns the pool of connections to endpoints."""
    timeout = urllib3.Timeout(connect=5, read=TIMEOUT_S)
    return urllib3.PoolManager(maxsize=64, timeout=timeout, retries=False)


def _model_error(status: int, message: str, folder: Path) -> urllib3.HTTPResponse:
    """Returns SageMaker's response to an error of the model server."""
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
