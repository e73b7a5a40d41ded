"""A folder of this machine that keeps what was fetched, so that a second epoch asks the store for nothing.

Bounded in bytes, the least recently used goes first. Any number of processes and trainings may share a folder: a file
appears whole or not at all, and who writes holds a lock. An image that changes has another name.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dogbreed.errors import UserError
from dogbreed.storage.base import ObjectBody, ObjectRequest
from dogbreed.storage.shrink import shrink

log = logging.getLogger(__name__)

SHORT_SIDE = 512
"""Of the images in a cache of scaled ones, px."""

_LEFT_SHARE = 0.9
"""Of the bytes allowed, what is left when the oldest are removed: looking for them takes long, so it is done seldom."""

_CHECK_BYTES = 4


@dataclass
class Cache:
    """Contents by name, in files; what goes wrong with the disk is never an error, as the store has them all."""

    folder: Path
    place: str
    """The store, as several may share the folder."""
    max_bytes: int
    scaled: bool = False
    trouble: str | None = None
    """Why nothing more is written."""
    _said: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, folder: Path, place: str, max_gb: float, *, scaled: bool = False) -> Cache:
        """Returns the cache in `folder`, which is made where it is missing.

        Raises:
            UserError: nothing can be written there.
        """
        if max_gb <= 0:
            raise UserError(f"data.cache_gb={max_gb:g}: more than 0; data.cache=null keeps nothing")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "lock").touch()
        except OSError as error:
            raise UserError(f"data.cache={folder} cannot be written: {error.strerror}") from error
        return cls(folder, place, int(max_gb * 1e9), scaled)

    def name(self, key: str, version: int) -> str:
        """Returns the name of an image, 32 hexadecimal digits, by its key and `ObjectInfo.version`."""
        text = f"{self.place}\0{key}\0{version}\0{SHORT_SIDE if self.scaled else 0}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def get(self, name: str) -> bytes | None:
        """Returns a content, from now on the most recently used one, or None where it is not kept, or damaged."""
        path = self._path(name)
        try:
            stored = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.trouble = self.trouble or f"{path}: {error.strerror}"
            return None
        content = stored[:-_CHECK_BYTES]
        if _check(content) == stored[-_CHECK_BYTES:]:
            return content
        with suppress(OSError):
            path.unlink()
        return None

    def put(self, name: str, content: bytes) -> None:
        """Keeps a content; the least recently used others make room."""
        stored = content + _check(content)
        if self.trouble or len(stored) > self.max_bytes:
            return
        path = self._path(name)
        new = path.with_suffix(".new")
        try:
            with self._lock():
                self._make_room(len(stored))
                path.parent.mkdir(exist_ok=True)
                try:
                    new.write_bytes(stored)
                    new.replace(path)
                except OSError:
                    new.unlink(missing_ok=True)
                    raise
        except OSError as error:
            self.trouble = f"{self.folder}: {error.strerror}"

    def say(self, trouble: str) -> None:
        """Says in the log, once, what goes wrong; called in the process that trains."""
        if trouble not in self._said:
            self._said.add(trouble)
            log.warning("the cache takes no more images, the training goes on without: %s", trouble)

    def scale(self, content: bytes) -> bytes:
        """Returns the content that is used and kept in place of `content`."""
        return shrink(content, SHORT_SIDE) if self.scaled else content

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name[2:]

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # freed by the kernel where its holder is killed
            yield

    def _make_room(self, num_bytes: int) -> None:
        """Counts `num_bytes` that are about to be written, and removes the oldest files where they are too many."""
        file = self.folder / "bytes"
        try:
            total = int(file.read_text())
        except (FileNotFoundError, ValueError):
            total = self._remove_oldest(self.max_bytes)
        if total + num_bytes > self.max_bytes:
            total = self._remove_oldest(int(self.max_bytes * _LEFT_SHARE) - num_bytes)
        file.write_text(str(total + num_bytes))

    def _remove_oldest(self, most: int) -> int:
        """Removes the least recently used until the others have at most `most` bytes; returns how many they have."""
        found = []
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            with suppress(FileNotFoundError):  # a damaged one may just have been removed
                status = path.stat()
                # What was half written when its writer was killed is older than all.
                found.append((0 if path.suffix else status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= most:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total


async def through(
    cache: Cache, name: str, wanted: ObjectRequest, fetch: Callable[[], Awaitable[ObjectBody]]
) -> ObjectBody:
    """Returns a content from the cache, or else fetches and keeps it; files are read and written in threads."""
    kept = await asyncio.to_thread(cache.get, name)
    if kept is not None:
        return ObjectBody(kept, "")
    content = await fetch()
    scaled = await asyncio.to_thread(cache.scale, bytes(content.data))
    # What was changed since it was listed is not what the name stands for.
    if content.version_of(wanted.key) == wanted.version:
        await asyncio.to_thread(cache.put, name, scaled)
    return ObjectBody(scaled, content.etag)


def _check(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECK_BYTES, "little")
