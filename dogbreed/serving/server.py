"""Serves a model folder over HTTP as SageMaker's containers do: GET /ping, POST /invocations; and GET / for people.

    python -m dogbreed.serving.server --model-dir outputs/NAME/model
    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:PORT/invocations

Set by environment variables, as an endpoint at AWS is: DOGBREED_TOP_K (5) classes in a JSON answer, DOGBREED_ANSWER
(label, or index: the class's number alone), DOGBREED_MAX_BATCH (16) images at once through the network,
DOGBREED_MAX_WAITING (128) images that may wait before requests are refused, SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from dogbreed.errors import UserError
from dogbreed.serving.settings import Settings
from dogbreed.system.atomic import atomic_write

GRACE_S = 60
"""Seconds that requests have to end after SIGTERM."""


class _Server(uvicorn.Server):
    """Says when it can answer."""

    def __init__(self, config: uvicorn.Config, ready: Path | None) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._ready and sockets and self.started:
            text = json.dumps({"port": sockets[0].getsockname()[1], "pid": os.getpid()}) + "\n"
            atomic_write(self._ready, lambda part: part.write_text(text))


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Raises:
        UserError: the address is taken, or is none.
    """
    try:
        listener = socket.create_server((host, port), backlog=1024)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen at {host}:{port}: {error}; --port 0 takes a free one") from error
    # asyncio does this only for sockets it made itself; without it the end of an answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(folder: Path, host: str, port: int, ready: Path | None) -> None:
    """Serves the model of `folder` until SIGTERM or SIGINT.

    Args:
        folder: As a training leaves it.
        host: Address to listen at.
        port: 0 for a free one.
        ready: File that is written when requests can be answered: `{"port": 8080, "pid": 123}`.

    Raises:
        UserError: no model that can be loaded, a wrong setting, an address that is taken.
    """
    settings = Settings.from_environment(os.environ)
    from dogbreed.serving.app import make_app  # with torch, which --help and a mistake should not wait for
    from dogbreed.serving.classifier import Classifier

    classifier = Classifier(folder)
    listener = listen(host, port)
    config = uvicorn.Config(
        make_app(classifier, settings), http="h11", ws="none", log_level="warning", access_log=False,
        timeout_graceful_shutdown=GRACE_S, server_header=False,
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn, having ended, sends itself the signal again
        signal.signal(number, lambda *_: None)
    host, port = listener.getsockname()[:2]
    card = classifier.card
    print(
        f"{card.name}: {card.architecture} ({classifier.form}), {len(card.classes)} classes, at http://{host}:{port}",
        flush=True,
    )
    asyncio.run(_Server(config, ready).serve([listener]))


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dogbreed.serving.server",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--model-dir", type=Path, required=True, help="model folder, as a training leaves it")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    parser.add_argument("--ready-file", type=Path, help="written when requests can be answered")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        serve(given.model_dir, given.host, given.port, given.ready_file)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
