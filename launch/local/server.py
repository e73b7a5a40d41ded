"""LocalSageMaker behind HTTP: any AWS client of another process, boto3 or the SageMaker SDK, drives this machine.

    python -m launch.local.server                       jobs in outputs/, http://127.0.0.1:8383
    python -m launch.local.server root=PATH port=8384

    export AWS_ENDPOINT_URL_SAGEMAKER=http://127.0.0.1:8383 AWS_DEFAULT_REGION=us-east-1
    export AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=http://127.0.0.1:8383
    export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any

It listens to this machine alone: whoever can reach it can start processes. Requests are not authenticated.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from urllib3 import BaseHTTPResponse

from dogbreed.cli.command import run_cli
from dogbreed.errors import UserError, did_you_mean
from launch.local.api.errors import ServiceError, invalid
from launch.local.api.operations import LocalSageMaker
from launch.local.hosting.runtime import PATH, forward
from launch.spec.service_model import service_model

HOST = "127.0.0.1"
PORT = 8383
TARGET = "SageMaker."
"""What stands before the operation in the X-Amz-Target header of botocore's JSON protocol."""
CONTENT_TYPE = "application/x-amz-json-1.1"
SENT_ON = (
    "content-type",
    "x-amzn-errortype",
    "x-amzn-invoked-production-variant",
    "x-amzn-sagemaker-custom-attributes",
)
"""Headers of an endpoint's answer that a client looks at."""

Json = dict[str, Any]


def make_server(service: LocalSageMaker, port: int = 0) -> ThreadingHTTPServer:
    """Returns a server of `service`, not yet serving; port 0: a free one, in `server_address[1]`.

    Raises:
        UserError: the port is taken.
    """

    class Handler(_Handler):
        root = service.root

        def answer(self, operation: str, request: Json) -> Json:
            return service.answer(operation, request)

    try:
        return _Server((HOST, port), Handler)
    except OSError as error:
        raise UserError(f"port={port} cannot be used ({error.strerror}): give another") from None


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Reports what went wrong, but not that a client was killed while it waited."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def answer(self, operation: str, request: Json) -> Json:
        raise NotImplementedError

    def do_POST(self) -> None:
        """Answers one operation, or hands an image on to the endpoint that it is for."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if PATH.match(self.path):
            self._send_on(forward(self.root, self.path, self.headers, body))
            return
        operation = self.headers.get("X-Amz-Target", "").removeprefix(TARGET)
        try:
            if operation not in service_model().operation_names:
                raise ServiceError("UnknownOperationException", f"{operation or 'no X-Amz-Target'} is no operation")
            shape = service_model().operation_model(operation).input_shape
            self._send(HTTPStatus.OK, self.answer(operation, _times_read(shape, json.loads(body or b"{}"))))
        except ServiceError as error:
            self._send(HTTPStatus.BAD_REQUEST, {"__type": error.code, "message": str(error)})
        except json.JSONDecodeError as error:
            self._send(HTTPStatus.BAD_REQUEST, {"__type": "SerializationException", "message": str(error)})
        except UserError as error:
            refusal = invalid(str(error))
            self._send(HTTPStatus.BAD_REQUEST, {"__type": refusal.code, "message": str(refusal)})

    def _send(self, status: HTTPStatus, answer: Json) -> None:
        self._write(status, {"Content-Type": CONTENT_TYPE}, json.dumps(answer, default=_seconds).encode())

    def _send_on(self, answer: BaseHTTPResponse) -> None:
        body = answer.read()
        self._write(answer.status, {name: answer.headers[name] for name in SENT_ON if name in answer.headers}, body)

    def _write(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: clients poll."""


def _times_read(shape: Any, value: Any) -> Any:
    """Returns `value` with the numbers of timestamp fields as times, as the service has them."""
    if shape is not None and shape.type_name == "structure" and isinstance(value, dict):
        return {key: _times_read(shape.members.get(key), item) for key, item in value.items()}
    if shape is not None and shape.type_name == "timestamp" and isinstance(value, (int, float)):
        return dt.datetime.fromtimestamp(value, dt.timezone.utc)
    return value


def _seconds(value: Any) -> float:
    """Returns a time as the protocol has it: seconds since the epoch."""
    if not isinstance(value, dt.datetime):
        raise TypeError(f"{value!r} is not JSON")
    return value.timestamp()


def main(words: list[str]) -> int:
    """Serves until it is interrupted; jobs go on after that."""
    settings = {"root": "outputs", "port": str(PORT)}
    for word in words:
        key, _, value = word.partition("=")
        if key not in settings:
            raise UserError(f"{word} is unknown{did_you_mean(key, settings)}")
        settings[key] = value
    if not settings["port"].isdigit():
        raise UserError(f"port={settings['port']}: must be a whole number; 0 takes a free one")
    server = make_server(LocalSageMaker(Path(settings["root"])), int(settings["port"]))
    url = f"http://{HOST}:{server.server_address[1]}"
    print(f"SageMaker on this machine, jobs in {settings['root']}: AWS_ENDPOINT_URL_SAGEMAKER={url}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        server.server_close()
    return 0


if __name__ == "__main__":
    run_cli(main, __doc__)
