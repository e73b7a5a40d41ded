"""Serves a model folder over HTTP with the interface of SageMaker's containers, and a web page at GET /.

    python -m dogbreed.serving.server --model-dir outputs/NAME/model
    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:PORT/invocations

Environment variables, as on an endpoint at AWS: DOGBREED_TOP_K (5) classes per JSON answer, DOGBREED_ANSWER (label,
or index for the class index alone), DOGBREED_MAX_BATCH (16) images per forward pass, DOGBREED_MAX_WAITING (128)
pending images above which requests are rejected, SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT.
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
from dogbreed.system.memory import enable_huge_pages

SHUTDOWN_TIMEOUT_S = 60
"""Time that pending requests have to finish after SIGTERM."""


class _Server(uvicorn.Server):
    """Writes a ready file once it accepts requests."""

    def __init__(self, config: uvicorn.Config, ready_file: Path | None) -> None:
        super().__init__(config)
        self._ready_file = ready_file

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._ready_file and sockets and self.started:
            text = json.dumps({"port": sockets[0].getsockname()[1], "pid": os.getpid()}) + "\n"
            atomic_write(self._ready_file, lambda part: part.write_text(text))


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket.

    Raises:
        UserError: the address is invalid or in use.
    """
    try:
        listener = socket.create_server((host, port), backlog=1024)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen at {host}:{port}: {error}; --port 0 takes a free one") from error
    # asyncio sets TCP_NODELAY only on sockets it created; without it, Nagle's algorithm delays responses by 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(folder: Path, host: str, port: int, ready_file: Path | None) -> None:
    """Serves a model folder until SIGTERM or SIGINT.

    Args:
        folder: The model folder.
        host: Address to listen at.
        port: 0 for a free one.
        ready_file: Written once requests are accepted: `{"port": 8080, "pid": 123}`.

    Raises:
        UserError: the model cannot be loaded, a setting is wrong, or the address is in use.
    """
    settings = Settings.from_environment(os.environ)
    from dogbreed.serving.app import make_app  # imports torch, which --help and wrong settings need not wait for
    from dogbreed.serving.classifier import Classifier

    classifier = Classifier(folder)
    listener = listen(host, port)
    config = uvicorn.Config(
        make_app(classifier, settings), http="h11", ws="none", log_level="warning", access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S, server_header=False,
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn re-raises the signal after its graceful shutdown
        signal.signal(number, lambda *_: None)
    host, port = listener.getsockname()[:2]
    card, runtime = classifier.card, classifier.runtime.name
    print(
        f"{card.name}: {card.architecture} ({runtime}), {len(card.classes)} classes, http://{host}:{port}", flush=True
    )
    asyncio.run(_Server(config, ready_file).serve([listener]))


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dogbreed.serving.server",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--model-dir", type=Path, required=True, help="model folder of a training")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    parser.add_argument("--ready-file", type=Path, help="written once requests are accepted")
    args = parser.parse_args(argv)
    enable_huge_pages()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        serve(args.model_dir, args.host, args.port, args.ready_file)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
