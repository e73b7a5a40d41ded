"""From a plan to objects under a URL: only what is not there yet, several at once, and the manifest at last."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from dogbreed.data.listing import SUFFIXES
from dogbreed.data.manifest import MANIFEST, ManifestError, Picture, manifest_bytes, read_manifest
from dogbreed.data.store import BusyError, Entry, PictureError
from dogbreed.publishing.download import TransferError
from dogbreed.publishing.pictures import Checked
from dogbreed.publishing.plan import candidates
from dogbreed.publishing.sources import Source
from dogbreed.publishing.targets import Target

LANES = 32
"""Pictures on their way at the same time."""

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Before each new attempt at the same picture."""


@dataclass(frozen=True)
class There:
    """What lies under the URL before anything is done."""

    entries: dict[str, Entry]
    """Pictures, by key."""
    manifest: dict[str, Picture]
    """What the manifest says of those that are still the same objects."""
    has_manifest: bool

    @property
    def by_hash(self) -> dict[str, Picture]:
        """Pictures that were checked when they were published, by the hash of their content."""
        return {picture.hash: picture for picture in self.manifest.values() if picture.hash}


@dataclass(frozen=True)
class Work:
    """What is to be done."""

    uploads: list[Checked]
    extra: list[str]
    """Pictures under the URL that are not to be there."""

    @property
    def num_bytes(self) -> int:
        """Bytes to upload."""
        return sum(picture.size for picture in self.uploads)


def look(target: Target) -> There:
    """Returns what lies at the target.

    Raises:
        UserError: it can not be listed.
    """
    listed = {entry.key: entry for entry in target.entries()}
    pictures = {e.key: e for e in candidates(listed.values()) if PurePosixPath(e.key).suffix.lower() in SUFFIXES}
    manifest: dict[str, Picture] = {}
    if MANIFEST in listed:
        with contextlib.suppress(ManifestError):  # a damaged one is of no use, and is written anew
            named = read_manifest(target.store) or ()
            manifest = {picture.key: picture for picture in named if pictures.get(picture.key) == picture.entry}
    return There(pictures, manifest, MANIFEST in listed)


def compare(pictures: Sequence[Checked], there: There, target: Target, source: Source) -> Work:
    """Returns which pictures are to be uploaded, and what lies at the target besides them."""
    uploads = [picture for picture in pictures if not _is_there(picture, there, target, source)]
    return Work(uploads, sorted(there.entries.keys() - {picture.name for picture in pictures}))


def _is_there(picture: Checked, there: There, target: Target, source: Source) -> bool:
    entry, known = there.entries.get(picture.name), there.manifest.get(picture.name)
    if entry is None or entry.size != picture.size:
        return False
    if known is not None and known.hash:
        return known.hash == picture.hash
    return target.holds(entry, picture, lambda: content(source, picture))


def content(source: Source, picture: Checked) -> bytes:
    """Returns the bytes of a picture as they are published.

    Raises:
        TransferError: they are not those that were checked.
    """
    try:
        data = picture.mending.apply(source.read(picture.key))
    except PictureError as error:
        raise TransferError(f"{picture.key} can not be read any more: {error}") from error
    if not picture.has_content(data):
        raise TransferError(f"{picture.key} has changed since it was checked")
    return data


def carry_out(work: Work, there: There, target: Target, source: Source, tell: Callable[[], None]) -> None:
    """Uploads and deletes. An old manifest goes first: what is interrupted must not be described by it.

    Raises:
        TransferError: the connection is lost, or the disk is full; what was uploaded stays.
        UserError: it is not allowed.
    """
    if there.has_manifest and (work.uploads or work.extra):
        target.delete([MANIFEST])
    if work.extra:
        target.delete(work.extra)
    asyncio.run(_upload(work.uploads, target, source, tell))


def seal(pictures: Sequence[Checked], there: There, target: Target) -> bool:
    """Writes the manifest of what lies at the target, where it has not that one already; returns whether it did.

    Args:
        pictures: What was published.
        there: What is listed there now.
        target: Where.

    Raises:
        TransferError: a picture is missing, or has another size than it should have.
    """
    found = [(picture, there.entries.get(picture.name)) for picture in pictures]
    wrong = [picture.name for picture, entry in found if entry is None or entry.size != picture.size]
    if wrong:
        raise TransferError(f"{len(wrong)} pictures are not there as they were uploaded, the first is {wrong[0]}")
    lines = [
        Picture(entry.key, entry.size, entry.etag, picture.width, picture.height, picture.hash)
        for picture, entry in found
        if entry is not None
    ]
    if there.has_manifest and there.manifest == {line.key: line for line in lines}:
        return False
    asyncio.run(_patiently(target, MANIFEST, manifest_bytes(lines), None))
    return True


async def _upload(pictures: Iterable[Checked], target: Target, source: Source, tell: Callable[[], None]) -> None:
    left = iter(pictures)
    lanes = [asyncio.create_task(_lane(left, target, source, tell)) for _ in range(LANES)]
    try:
        await asyncio.gather(*lanes)
    finally:
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)


async def _lane(left: Iterator[Checked], target: Target, source: Source, tell: Callable[[], None]) -> None:
    for picture in left:
        data = await asyncio.to_thread(content, source, picture)
        await _patiently(target, picture.name, data, picture)
        tell()


async def _patiently(target: Target, key: str, data: bytes, picture: Checked | None) -> None:
    for pause_s in (*PAUSES_S, None):
        try:
            return await target.put(key, data, picture)
        except BusyError as error:
            if pause_s is None:
                raise TransferError(str(error)) from error
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
    raise AssertionError
