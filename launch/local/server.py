"""LocalSageMaker over HTTP, for AWS clients in other processes: boto3, the SageMaker SDK, the AWS CLI.

    python -m launch.local.server                       jobs in outputs/, http://127.0.0.1:8383
    python -m launch.local.server root=PATH port=8384

    export AWS_ENDPOINT_URL_SAGEMAKER=http://127.0.0.1:8383 AWS_DEFAULT_REGION=us-east-1
    export AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=http://127.0.0.1:8383
    export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any

Requests start processes and are not authenticated: any user of this machine can send them. Other machines cannot,
and web pages are rejected by their Host and Origin headers.
"""

from __future__ import annotations

import datetime as dt
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dogbreed.cli.command import run_cli
from dogbreed.errors import UserError, did_you_mean
from launch.local.api.errors import ServiceError, invalid
from launch.local.api.operations import LocalSageMaker
from launch.local.hosting.runtime import PATH, forward
from launch.local.job_store import Json
from launch.spec.service_model import service_model

HOST = "127.0.0.1"
PORT = 8383
MAX_BODY_BYTES = 32 << 20
SHUTDOWN_S = 5
"""Seconds that open requests have to end when the server stops."""
OPERATION_PREFIX = "SageMaker."
"""Prefix of the operation in the X-Amz-Target header of botocore's JSON protocol."""
CONTENT_TYPE = "application/x-amz-json-1.1"
RETURNED_HEADERS = (
    "content-type",
    "x-amzn-errortype",
    "x-amzn-invoked-production-variant",
    "x-amzn-sagemaker-custom-attributes",
)
"""Headers of an endpoint's response that the client gets."""


class Server(uvicorn.Server):
    """An HTTP server of `service`; `run` serves until `should_exit` is set or SIGINT arrives. Port 0 takes a free one.

    Attributes:
        url: URL of the server.

    Raises:
        UserError: The port is taken.
    """

    def __init__(self, service: LocalSageMaker, port: int = 0):
        options: Json = {"log_level": "warning", "access_log": False, "ws": "none", "lifespan": "off"}
        super().__init__(uvicorn.Config(make_app(service), timeout_graceful_shutdown=SHUTDOWN_S, **options))
        try:
            self._listener = socket.create_server((HOST, port))
        except (OSError, OverflowError) as error:
            raise UserError(f"port={port} cannot be used ({error}): give another one") from None
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves."""
        super().run(sockets or [self._listener])


def make_app(service: LocalSageMaker) -> Starlette:
    """Returns the ASGI application that answers operations and forwards invocations of endpoints."""

    async def post(request: Request) -> Response:
        if "origin" in request.headers:
            return Response("requests from web pages are rejected", 403)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                return Response(f"the body has more than {MAX_BODY_BYTES} bytes", 413)
        return await run_in_threadpool(_answer, service, request, bytes(body))

    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=[Route("/{path:path}", post, methods=["POST"])], middleware=[hosts])


def _answer(service: LocalSageMaker, request: Request, body: bytes) -> Response:
    if PATH.match(request.url.path):
        response = forward(service.root, request.url.path, request.headers, body)
        headers = {name: response.headers[name] for name in RETURNED_HEADERS if name in response.headers}
        return Response(response.read(), response.status, headers)
    operation = request.headers.get("x-amz-target", "").removeprefix(OPERATION_PREFIX)
    try:
        if operation not in service_model().operation_names:
            raise ServiceError("UnknownOperationException", f"{operation or 'no X-Amz-Target'} is not an operation")
        shape = service_model().operation_model(operation).input_shape
        return _json_response(200, service.answer(operation, _parse_times(shape, json.loads(body or b"{}"))))
    except ServiceError as error:
        return _json_response(400, {"__type": error.code, "message": str(error)})
    except json.JSONDecodeError as error:
        return _json_response(400, {"__type": "SerializationException", "message": str(error)})
    except UserError as error:
        rejection = invalid(str(error))
        return _json_response(400, {"__type": rejection.code, "message": str(rejection)})


def _json_response(status: int, content: Json) -> Response:
    return Response(json.dumps(content, default=_to_seconds), status, media_type=CONTENT_TYPE)


def _parse_times(shape: Any, value: Any) -> Any:
    """Returns `value` with the numbers in timestamp fields as datetimes."""
    if shape is not None and shape.type_name == "structure" and isinstance(value, dict):
        return {key: _parse_times(shape.members.get(key), item) for key, item in value.items()}
    if shape is not None and shape.type_name == "timestamp" and isinstance(value, (int, float)):
        return dt.datetime.fromtimestamp(value, dt.timezone.utc)
    return value


def _to_seconds(value: Any) -> float:
    """Returns a time as the protocol encodes it, in seconds since the epoch."""
    if not isinstance(value, dt.datetime):
        raise TypeError(f"{value!r} is not JSON")
    return value.timestamp()


def main(argv: list[str]) -> int:
    """Serves until it is interrupted; jobs keep running after that."""
    settings = {"root": "outputs", "port": str(PORT)}
    for argument in argv:
        key, _, value = argument.partition("=")
        if key not in settings:
            raise UserError(f"{argument} is unknown{did_you_mean(key, settings)}")
        settings[key] = value
    if not settings["port"].isdigit():
        raise UserError(f"port={settings['port']}: must be a whole number; 0 takes a free one")
    server = Server(LocalSageMaker(Path(settings["root"])), int(settings["port"]))
    print(f"SageMaker on this machine, jobs in {settings['root']}: AWS_ENDPOINT_URL_SAGEMAKER={server.url}", flush=True)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again after its shutdown
        server.run()
    return 0


if __name__ == "__main__":
    run_cli(main, __doc__)
