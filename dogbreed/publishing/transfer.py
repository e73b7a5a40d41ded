"""Compares a plan with a target, uploads what is missing and writes the manifest."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import PurePosixPath

from dogbreed.publishing.checks import CheckedImage
from dogbreed.publishing.disk import TransferError
from dogbreed.publishing.sources import Source, visible_files
from dogbreed.publishing.targets import Target
from dogbreed.storage.base import ImageError, ObjectInfo, TransientError
from dogbreed.storage.listing import IMAGE_SUFFIXES
from dogbreed.storage.manifest import MANIFEST, ImageFile, ManifestError, manifest_bytes, read_manifest

NUM_THREADS = 32
"""Concurrent uploads."""

BACKOFFS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Before each retry of an upload; shortened by jitter."""


@dataclass(frozen=True)
class TargetState:
    """The content of a target."""

    images: dict[str, ObjectInfo]
    """Images by key."""
    manifest: dict[str, ImageFile]
    """Entries of the manifest by key; only those that match the listed objects."""
    has_manifest: bool

    @property
    def by_hash(self) -> dict[str, ImageFile]:
        """Images that an earlier run has checked, by the hash of their content."""
        return {image.hash: image for image in self.manifest.values() if image.hash}


@dataclass(frozen=True)
class Changes:
    """Differences between a plan and a target."""

    uploads: list[CheckedImage]
    replaced: int
    """Uploads that replace an image with other content."""
    extra: list[str]
    """Keys of images at the target that are not in the plan."""

    @property
    def num_bytes(self) -> int:
        """Bytes to upload."""
        return sum(image.size for image in self.uploads)


def read_state(target: Target) -> TargetState:
    """Returns the content of `target`.

    Raises:
        UserError: It cannot be listed.
    """
    listed = {info.key: info for info in target.list_objects()}
    visible = visible_files(listed.values())
    images = {info.key: info for info in visible if PurePosixPath(info.key).suffix.lower() in IMAGE_SUFFIXES}
    manifest: dict[str, ImageFile] = {}
    if MANIFEST in listed:
        with contextlib.suppress(ManifestError):  # a damaged manifest is replaced
            entries = read_manifest(target.store) or ()
            manifest = {entry.key: entry for entry in entries if images.get(entry.key) == entry.object_info}
    return TargetState(images, manifest, MANIFEST in listed)


def compare(images: Sequence[CheckedImage], state: TargetState, target: Target, source: Source) -> Changes:
    """Returns the images to upload, and those at the target that are not in `images`."""
    uploads = [image for image in images if not _is_published(image, state, target, source)]
    replaced = sum(image.name in state.images for image in uploads)
    return Changes(uploads, replaced, sorted(state.images.keys() - {image.name for image in images}))


def _is_published(image: CheckedImage, state: TargetState, target: Target, source: Source) -> bool:
    info, entry = state.images.get(image.name), state.manifest.get(image.name)
    if info is None or info.size != image.size:
        return False
    if entry is not None and entry.hash:
        return entry.hash == image.hash
    return target.has_content(info, image, lambda: read_repaired(source, image))


def read_repaired(source: Source, image: CheckedImage) -> bytes:
    """Returns the bytes of an image as they are published.

    Raises:
        TransferError: The file has changed since it was checked, or cannot be read.
    """
    try:
        data = image.repair.apply(source.read(image.key))
    except ImageError as error:
        raise TransferError(f"{image.key} can no longer be read: {error}") from error
    if not image.has_content(data):
        raise TransferError(f"{image.key} has changed since it was checked")
    return data


def apply_changes(
    changes: Changes, state: TargetState, target: Target, source: Source, on_upload: Callable[[str], None]
) -> None:
    """Deletes and uploads images. The old manifest is deleted first, so that it never describes a partial update.

    Args:
        changes: The uploads and deletions.
        state: Content of the target before.
        target: Where to upload.
        source: Where to read the images.
        on_upload: Called in a worker thread with the key of each upload. At an interrupt or an error, uploads in
            progress are completed and passed too.

    Raises:
        TransferError: The connection failed or the disk is full; completed uploads are kept.
        UserError: The target refuses the changes.
    """
    if state.has_manifest and (changes.uploads or changes.extra):
        target.delete([MANIFEST])
    if changes.extra:
        target.delete(changes.extra)
    _upload(changes.uploads, target, source, on_upload)


def write_manifest(images: Sequence[CheckedImage], state: TargetState, target: Target) -> bool:
    """Writes the manifest, unless the target already has the same one; returns whether it was written.

    Args:
        images: The published images.
        state: Content of the target now.
        target: Where to write it.

    Raises:
        TransferError: An image is missing or has another size than uploaded.
    """
    listed = [(image, state.images.get(image.name)) for image in images]
    wrong = [image.name for image, info in listed if info is None or info.size != image.size]
    if wrong:
        raise TransferError(f"{len(wrong)} images are missing or changed after the upload, the first is {wrong[0]}")
    entries = [
        ImageFile(info.key, info.size, info.etag, image.width, image.height, image.hash)
        for image, info in listed
        if info is not None
    ]
    if state.has_manifest and state.manifest == {entry.key: entry for entry in entries}:
        return False
    _put_with_retries(target, MANIFEST, manifest_bytes(entries), None, threading.Event())
    return True


def _upload(images: Iterable[CheckedImage], target: Target, source: Source, on_upload: Callable[[str], None]) -> None:
    remaining, ready, stop = deque(images), threading.Event(), threading.Event()

    def work() -> None:
        ready.wait()  # an executor does not join a thread whose start was interrupted: no upload may run in it
        while not stop.is_set():
            try:
                image = remaining.popleft()
            except IndexError:
                return
            _put_with_retries(target, image.name, read_repaired(source, image), image, stop)
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


def _put_with_retries(target: Target, key: str, data: bytes, image: CheckedImage | None, stop: threading.Event) -> None:
    for backoff_s in (*BACKOFFS_S, None):
        try:
            return target.put(key, data, image)
        except TransientError as error:
            if backoff_s is None or stop.wait(backoff_s * random.uniform(0.5, 1.0)):
                raise TransferError(str(error)) from error
    raise AssertionError
