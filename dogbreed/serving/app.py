"""The local endpoint as an ASGI application: GET /ping, POST /invocations, and a web page at GET /.

A request is admitted or rejected, its images are decoded in a thread pool, and the inference thread classifies them.
The event loop does only network I/O.
"""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from dogbreed.serving.batching import Batcher, BatcherStoppedError
from dogbreed.serving.classifier import Classifier
from dogbreed.serving.images import decode_images
from dogbreed.serving.model_folder import ModelCard
from dogbreed.serving.request import MAX_BODY_BYTES, RequestError, body_too_large, parse_request
from dogbreed.serving.responses import Prediction, encode_response
from dogbreed.serving.settings import Settings
from dogbreed.system.cpu import cpu_count
from dogbreed.system.threads import single_threaded_pool

MAX_BUFFERED_BYTES = 8 * MAX_BODY_BYTES
"""Limit on the bodies of all pending requests together."""

BODY_TIMEOUT_S = 60
"""Time a client has to send its body."""

HUNG_AFTER_S = 30
"""Age of a request or batch after which /ping reports the endpoint as hung."""

RETRY_AFTER_S = 1

T = TypeVar("T")


class Endpoint:
    """A classifier behind HTTP, with admission control."""

    def __init__(self, classifier: Classifier, settings: Settings) -> None:
        self.card = classifier.card
        self.settings = settings
        self.batcher = Batcher(classifier, settings.max_batch)
        self._decoders = single_threaded_pool(cpu_count(), "decode")
        self._pending_images = 0  # a request counts as one image until its body is parsed
        self._buffered_bytes = 0
        self._started: dict[int, float] = {}  # id of each pending request -> when its body was complete

    def close(self) -> None:
        """Stops the threads."""
        self._decoders.shutdown()
        self.batcher.stop()

    async def ping(self, request: Request) -> Response:
        """Answers 200 if requests can be answered, otherwise 503 with the reason."""
        problem = self.batcher.problem(HUNG_AFTER_S)
        oldest_s = time.monotonic() - min(self._started.values(), default=time.monotonic())
        if problem is None and oldest_s > HUNG_AFTER_S:
            problem = f"a request has been waiting for {oldest_s:.0f} s"
        return JSONResponse({"status": problem or "ok"}, 503 if problem else 200)

    async def invocations(self, request: Request) -> Response:
        """Classifies the images in the body."""
        num_images, num_bytes, body = self._admit(0, 1), 0, bytearray()

        def buffer(chunk: bytes) -> None:
            nonlocal num_bytes
            num_bytes += len(chunk)
            self._buffered_bytes += len(chunk)
            if num_bytes > MAX_BODY_BYTES:
                raise body_too_large(num_bytes)
            if self._buffered_bytes > MAX_BUFFERED_BYTES:
                raise _busy(f"{self._buffered_bytes:,} bytes are buffered")
            body.extend(chunk)

        try:
            await _receive(request, buffer)
            self._started[id(request)] = time.monotonic()
            parsed = await self._in_thread(partial(parse_request, bytes(body), request.headers.get("content-type")))
            num_images = self._admit(num_images, len(parsed.images))
            pixels = await self._in_thread(partial(decode_images, parsed, self.card.input_spec))
            probabilities = await asyncio.wrap_future(self.batcher.submit(pixels))
        except BatcherStoppedError as error:
            raise RequestError(503, str(error)) from error
        finally:
            self._pending_images -= num_images
            self._buffered_bytes -= num_bytes
            self._started.pop(id(request), None)
        prediction = Prediction(probabilities, parsed.is_batch, self.card)
        content, kind = encode_response(prediction, request.headers.get("accept"), self.settings)
        return Response(content, media_type=kind)

    def _admit(self, before: int, now: int) -> int:
        """Changes the number of images that a request counts as; a lone request of any size is admitted."""
        others = self._pending_images - before
        if others and others + now > self.settings.max_waiting:
            raise _busy(f"{others} images are waiting")
        self._pending_images = others + now
        return now

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)


async def _receive(request: Request, buffer: Callable[[bytes], None]) -> None:
    """Passes each chunk of the body to `buffer`.

    Not an async generator: abandoned with its timeout scope open, one would be closed in another task, which anyio
    forbids.

    Raises:
        RequestError: 413 if the Content-Length is too large, 408 if the body does not arrive in time.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise body_too_large(int(declared))
    try:
        with anyio.fail_after(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                buffer(chunk)
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {BODY_TIMEOUT_S} s") from None


def _busy(reason: str) -> RequestError:
    return RequestError(503, f"too busy, {reason}: try again in {RETRY_AFTER_S} s")


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status == 503 else None
    return JSONResponse({"error": error.reason}, error.status, headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # never sent: the client has gone


async def _on_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal error; see the endpoint's log"}, 500)


def make_page(card: ModelCard) -> str:
    """Returns the web page for trying the model; it loads nothing from other hosts."""
    page = Path(__file__).with_name("page.html").read_text()
    values = {"MODEL": card.name, "ARCHITECTURE": card.architecture, "CLASSES": str(len(card.classes))}
    for name, value in values.items():
        page = page.replace(f"{{{name}}}", html.escape(value))
    return page


def make_app(classifier: Classifier, settings: Settings) -> Starlette:
    """Returns the ASGI application; its threads stop when it shuts down."""
    endpoint = Endpoint(classifier, settings)
    page = make_page(classifier.card)

    async def root(request: Request) -> Response:
        return HTMLResponse(page)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        endpoint.close()

    return Starlette(
        routes=[
            Route("/ping", endpoint.ping),
            Route("/invocations", endpoint.invocations, methods=["POST"]),
            Route("/", root),
        ],
        exception_handlers={
            RequestError: _on_request_error, HTTPException: _on_http_error, ClientDisconnect: _on_disconnect,
            Exception: _on_error,
        },
        lifespan=lifespan,
    )  # fmt: skip
