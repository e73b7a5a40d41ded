"""Sends every image of a folder or S3 prefix to an endpoint, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from dogbreed.errors import UserError
from dogbreed.storage.base import ImageError, Store, UnreachableError
from dogbreed.storage.listing import Listing
from dogbreed.storage.retry import RetryingFetcher
from launch.hosting.invoke import InvocationError
from launch.spec.prediction import Prediction

MAX_CONSECUTIVE_FAILURES = 10
"""Failures in a row after which the endpoint, not the images, is considered to be the reason."""


class ImageObject(NamedTuple):
    """One image of a store."""

    key: str
    """Path below the store's URL."""
    uri: str
    """URL and key."""
    size: int
    """Bytes."""


class Failure(NamedTuple):
    """Why an image has no prediction."""

    reason: str
    is_final: bool
    """Whether the image is the reason, so that it need not be sent again."""


def list_images(store: Store) -> list[ImageObject]:
    """Returns the images under the store's URL, sorted by key.

    Raises:
        UserError: the URL cannot be listed, or has no images.
    """
    listing = Listing.pack(store.list_objects())
    if not len(listing):
        raise UserError(f"{store.url} has no images (files that end in .jpg, .jpeg, .png, .webp and the like)")
    base = store.url.rstrip("/")
    return [ImageObject(key, f"{base}/{key}", int(size)) for key, size in zip(listing.keys, listing.sizes, strict=True)]


async def invoke_all(
    images: Sequence[ImageObject],
    store: Store,
    invoke: Callable[[bytes], Prediction],
    report: Callable[[ImageObject, Prediction | Failure], None],
    *,
    in_flight: int,
    is_stopped: Callable[[], bool],
) -> None:
    """Sends every image and passes each outcome to `report`.

    Args:
        images: Images of the store.
        store: The store.
        invoke: Blocks until there is a prediction; called in threads.
        report: Called in the calling thread, in the order in which outcomes arrive.
        in_flight: Images that are fetched or sent at a time.
        is_stopped: Whether to start no further image.

    Raises:
        UserError: the store cannot be read any more, or the endpoint fails on every image.
        ClientError: the endpoint cannot be invoked any more.
    """
    loop, fetcher, remaining, failures = asyncio.get_running_loop(), RetryingFetcher(store), iter(images), 0

    async def work(threads: ThreadPoolExecutor) -> None:
        nonlocal failures
        for image in remaining:
            if is_stopped():
                return
            try:
                content = await fetcher.fetch(image.key, image.size)
                report(image, await loop.run_in_executor(threads, invoke, bytes(content.data)))
                failures = 0
            except ImageError as error:
                report(image, Failure(str(error), is_final=not isinstance(error, UnreachableError)))
            except InvocationError as error:
                report(image, Failure(str(error), error.is_image_fault))
                failures = 0 if error.is_image_fault else failures + 1
                if failures > MAX_CONSECUTIVE_FAILURES:
                    raise UserError(f"the endpoint fails on every image; the last reason: {error}") from None

    with ThreadPoolExecutor(in_flight) as threads:
        workers = [asyncio.ensure_future(work(threads)) for _ in range(min(in_flight, len(images)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
