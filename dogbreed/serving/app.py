"""The endpoint as a web application: what happens between a request and its answer.

A request is taken in or refused, its images are decoded in a pool of threads, answered by the network's own thread
and written as the client asked. The event loop itself only reads and writes.
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
from starlette.requests import ClientDisconnect
from starlette.requests import Request as WebRequest
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from dogbreed.serving.batching import Batcher, DeadError
from dogbreed.serving.classifier import Classifier
from dogbreed.serving.images import MAX_BODY_BYTES, RequestError, read_body, read_images, too_large
from dogbreed.serving.responses import Prediction, write_answer
from dogbreed.serving.settings import Settings
from dogbreed.system import cpu as cores
from dogbreed.system.threads import single_threaded

MAX_HELD_BYTES = 8 * MAX_BODY_BYTES
"""Of the bodies of all requests together."""

BODY_S = 60
"""Seconds that a client has to send its body."""

STUCK_S = 30
"""Seconds after which a request that is not answered, or a batch that has not ended, means that nothing is."""

RETRY_AFTER_S = 1

T = TypeVar("T")


class Endpoint:
    """A classifier behind HTTP.

    Args:
        classifier: Of the model.
        settings: Of the endpoint.
    """

    def __init__(self, classifier: Classifier, settings: Settings) -> None:
        self.card = classifier.card
        self.settings = settings
        self.batcher = Batcher(classifier, settings.max_batch)
        self._decoders = single_threaded(cores.count(), "decode")
        self._waiting = 0  # images of all requests inside; a request counts as one until its body is read
        self._held_bytes = 0
        self._begun: dict[int, float] = {}  # when each request inside had been read

    def close(self) -> None:
        """Ends the threads."""
        self._decoders.shutdown()
        self.batcher.stop()

    async def ping(self, request: WebRequest) -> Response:
        """Answers 200 where a request would be answered too, else 503 with the reason."""
        problem = self.batcher.problem(STUCK_S)
        oldest = min(self._begun.values(), default=time.monotonic())
        if problem is None and time.monotonic() - oldest > STUCK_S:
            problem = f"a request has been waiting for {time.monotonic() - oldest:.0f} s"
        return JSONResponse({"status": problem or "ok"}, 503 if problem else 200)

    async def invocations(self, request: WebRequest) -> Response:
        """Answers with what the network says of the images in the body."""
        images, held, body = self._admit(0, 1), 0, bytearray()

        def take(chunk: bytes) -> None:
            nonlocal held
            held += len(chunk)
            self._held_bytes += len(chunk)
            if held > MAX_BODY_BYTES:
                raise too_large(held)
            if self._held_bytes > MAX_HELD_BYTES:
                raise _busy(f"requests of {self._held_bytes:,} bytes are inside")
            body.extend(chunk)

        try:
            await _receive(request, take)
            self._begun[id(request)] = time.monotonic()
            asked = await self._in_thread(partial(read_body, bytes(body), request.headers.get("content-type")))
            images = self._admit(images, len(asked.images))
            pixels = await self._in_thread(partial(read_images, asked, self.card.input_spec))
            rows = await asyncio.wrap_future(self.batcher.submit(pixels))
        except DeadError as error:
            raise RequestError(503, str(error)) from error
        finally:
            self._waiting -= images
            self._held_bytes -= held
            self._begun.pop(id(request), None)
        answer = Prediction(rows, asked.several, self.card)
        content, kind = write_answer(answer, request.headers.get("accept"), self.settings)
        return Response(content, media_type=kind)

    def _admit(self, before: int, now: int) -> int:
        """Lets a request that counted as `before` images count as `now`; a single one is never too large."""
        others = self._waiting - before
        if others and others + now > self.settings.max_waiting:
            raise _busy(f"{others} images are waiting")
        self._waiting = others + now
        return now

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)


async def _receive(request: WebRequest, take: Callable[[bytes], None]) -> None:
    """Hands the body to `take` as it comes.

    No generator: one that is left with its time limit still running is closed in another task, which asyncio minds.

    Raises:
        RequestError: 413 its head says that it is too large, 408 it does not come.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise too_large(int(declared))
    try:
        with anyio.fail_after(BODY_S):
            async for chunk in request.stream():
                take(chunk)
    except TimeoutError:
        raise RequestError(408, f"the body did not come within {BODY_S} s") from None


def _busy(why: str) -> RequestError:
    return RequestError(503, f"too busy, {why}: try again in {RETRY_AFTER_S} s")


async def _refuse(request: WebRequest, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status == 503 else None
    return JSONResponse({"error": error.reason}, error.status, headers)


async def _no_such_page(request: WebRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _gone(request: WebRequest, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _fault(request: WebRequest, error: Exception) -> Response:
    return JSONResponse({"error": "the endpoint failed; its log says why"}, 500)


def make_page(classifier: Classifier) -> str:
    """Returns the page for people, which asks this endpoint and nobody else."""
    card = classifier.card
    page = Path(__file__).with_name("page.html").read_text()
    facts = {"MODEL": card.name, "ARCHITECTURE": card.architecture, "CLASSES": str(len(card.classes))}
    for name, value in facts.items():
        page = page.replace(f"{{{name}}}", html.escape(value))
    return page


def make_app(classifier: Classifier, settings: Settings) -> Starlette:
    """Returns the application; its threads end with it."""
    endpoint = Endpoint(classifier, settings)
    page = make_page(classifier)

    async def root(request: WebRequest) -> Response:
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
            RequestError: _refuse, HTTPException: _no_such_page, ClientDisconnect: _gone, Exception: _fault,
        },
        lifespan=lifespan,
    )  # fmt: skip
