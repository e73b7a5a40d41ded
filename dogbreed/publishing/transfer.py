"""From a plan to objects under a URL: only what is not there yet, several at once, and the manifest at last."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import PurePosixPath

from dogbreed.publishing.checks import Checked
from dogbreed.publishing.download import TransferError
from dogbreed.publishing.plan import candidates
from dogbreed.publishing.sources import Source
from dogbreed.publishing.targets import Target
from dogbreed.storage.base import ImageError, ObjectInfo, TransientError
from dogbreed.storage.listing import IMAGE_SUFFIXES
from dogbreed.storage.manifest import MANIFEST, ImageFile, ManifestError, manifest_bytes, read_manifest

NUM_THREADS = 32
"""Concurrent uploads."""

BACKOFFS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Before each retry of an upload; shortened by jitter."""


@dataclass(frozen=True)
class There:
    """What lies under the URL before anything is done."""

    entries: dict[str, ObjectInfo]
    """Images, by key."""
    manifest: dict[str, ImageFile]
    """What the manifest says of those that are still the same objects."""
    has_manifest: bool

    @property
    def by_hash(self) -> dict[str, ImageFile]:
        """Images that were checked when they were published, by the hash of their content."""
        return {image.hash: image for image in self.manifest.values() if image.hash}


@dataclass(frozen=True)
class Work:
    """What is to be done."""

    uploads: list[Checked]
    extra: list[str]
    """Images under the URL that are not to be there."""

    @property
    def num_bytes(self) -> int:
        """Bytes to upload."""
        return sum(image.size for image in self.uploads)


def look(target: Target) -> There:
    """Returns what lies at the target.

    Raises:
        UserError: it cannot be listed.
    """
    listed = {entry.key: entry for entry in target.list_objects()}
    images = {e.key: e for e in candidates(listed.values()) if PurePosixPath(e.key).suffix.lower() in IMAGE_SUFFIXES}
    manifest: dict[str, ImageFile] = {}
    if MANIFEST in listed:
        with contextlib.suppress(ManifestError):  # a damaged one is of no use, and is written anew
            named = read_manifest(target.store) or ()
            manifest = {image.key: image for image in named if images.get(image.key) == image.object_info}
    return There(images, manifest, MANIFEST in listed)


def compare(images: Sequence[Checked], there: There, target: Target, source: Source) -> Work:
    """Returns which images are to be uploaded, and what lies at the target besides them."""
    uploads = [image for image in images if not _is_there(image, there, target, source)]
    return Work(uploads, sorted(there.entries.keys() - {image.name for image in images}))


def _is_there(image: Checked, there: There, target: Target, source: Source) -> bool:
    entry, known = there.entries.get(image.name), there.manifest.get(image.name)
    if entry is None or entry.size != image.size:
        return False
    if known is not None and known.hash:
        return known.hash == image.hash
    return target.holds(entry, image, lambda: content(source, image))


def content(source: Source, image: Checked) -> bytes:
    """Returns the bytes of an image as they are published.

    Raises:
        TransferError: they are not those that were checked.
    """
    try:
        data = image.mending.apply(source.read(image.key))
    except ImageError as error:
        raise TransferError(f"{image.key} cannot be read any more: {error}") from error
    if not image.has_content(data):
        raise TransferError(f"{image.key} has changed since it was checked")
    return data


def carry_out(work: Work, there: There, target: Target, source: Source, on_upload: Callable[[str], None]) -> None:
    """Uploads and deletes. An old manifest goes first: what is interrupted must not be described by it.

    Args:
        work: What to do.
        there: The state of the target before.
        target: Where to upload.
        source: Where to read the images.
        on_upload: Called in a worker thread with the key of each upload, also for those in progress at an interrupt.

    Raises:
        TransferError: the connection is lost, or the disk is full; what was uploaded stays.
        UserError: it is not allowed.
    """
    if there.has_manifest and (work.uploads or work.extra):
        target.delete([MANIFEST])
    if work.extra:
        target.delete(work.extra)
    _upload(work.uploads, target, source, on_upload)


def seal(images: Sequence[Checked], there: There, target: Target) -> bool:
    """Writes the manifest of what lies at the target, where it has not that one already; returns whether it did.

    Args:
        images: What was published.
        there: What is listed there now.
        target: Where.

    Raises:
        TransferError: an image is missing, or has another size than it should have.
    """
    found = [(image, there.entries.get(image.name)) for image in images]
    wrong = [image.name for image, entry in found if entry is None or entry.size != image.size]
    if wrong:
        raise TransferError(f"{len(wrong)} images are not there as they were uploaded, the first is {wrong[0]}")
    lines = [
        ImageFile(entry.key, entry.size, entry.etag, image.width, image.height, image.hash)
        for image, entry in found
        if entry is not None
    ]
    if there.has_manifest and there.manifest == {line.key: line for line in lines}:
        return False
    _put_with_retries(target, MANIFEST, manifest_bytes(lines), None, threading.Event())
    return True


def _upload(images: Iterable[Checked], target: Target, source: Source, on_upload: Callable[[str], None]) -> None:
    """Uploads in threads. At an interrupt or an error, uploads in progress are completed and counted first."""
    remaining, ready, stop = deque(images), threading.Event(), threading.Event()

    def work() -> None:
        ready.wait()  # an executor does not join a thread whose start was interrupted: no upload may run in it
        while not stop.is_set():
            try:
                image = remaining.popleft()
            except IndexError:
                return
            _put_with_retries(target, image.name, content(source, image), image, stop)
            on_upload(image.name)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        try:
            workers = [pool.submit(work) for _ in range(NUM_THREADS)]
            ready.set()
            for worker in as_completed(workers):
                worker.result()
        finally:
            stop.set()
            ready.set()


def _put_with_retries(target: Target, key: str, data: bytes, image: Checked | None, stop: threading.Event) -> None:
    for backoff_s in (*BACKOFFS_S, None):
        try:
            return target.put(key, data, image)
        except TransientError as error:
            if backoff_s is None or stop.wait(backoff_s * random.uniform(0.5, 1.0)):
                raise TransferError(str(error)) from error
    raise AssertionError
