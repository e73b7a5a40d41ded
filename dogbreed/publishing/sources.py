"""Reads the files to publish: from a folder, a zip archive, or generated images.

Archives are read without unpacking; suspicious ones are rejected before any file is read.
"""

from __future__ import annotations

import asyncio
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from dogbreed.errors import UserError
from dogbreed.storage import open_store
from dogbreed.storage.base import ImageError, ObjectInfo
from dogbreed.storage.local import FolderStore

BOMB_RATIO, BOMB_BYTES = 100, 256 << 20
"""Archives whose content exceeds both limits, as a multiple of the archive's size and in bytes, are zip bombs."""

_LOCAL_HEADER_BYTES = 30


class Source(Protocol):
    """Files to publish."""

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns path and size of each file.

        Raises:
            UserError: The source cannot be listed.
        """

    def read(self, key: str) -> bytes:
        """Returns the content of a file; thread-safe.

        Raises:
            ImageError: The file cannot be read.
        """


def open_source(url: str) -> Source:
    """Returns the source for a folder, a zip archive or `demo://`.

    Raises:
        UserError: It does not exist, or the archive is damaged or rejected.
    """
    if url.startswith("demo://"):
        return DemoSource(url)
    path = Path(url.removeprefix("file://")).expanduser()
    if path.is_dir():
        return FolderSource(url, path)
    if not path.exists():
        raise UserError(f"{url}: no such file or folder; give a folder, a .zip file, an https:// URL or demo://")
    return ZipSource(path)


def visible_files(infos: Iterable[ObjectInfo]) -> list[ObjectInfo]:
    """Returns the files without hidden ones, such as `.DS_Store` and `__MACOSX/._x.jpg`, and without folders."""
    return [info for info in infos if not info.key.endswith("/") and not _is_hidden(info.key)]


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in key.split("/"))


class FolderSource:
    """Files below a folder; symbolic links are followed."""

    def __init__(self, url: str, root: Path) -> None:
        self.url, self.root = url, root

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns the files below the folder."""
        return FolderStore(self.url, self.root).list_objects()

    def read(self, key: str) -> bytes:
        """Returns the content of a file."""
        try:
            return (self.root / key).read_bytes()
        except OSError as error:
            raise ImageError(error.strerror or str(error)) from error


class DemoSource:
    """Generated images."""

    def __init__(self, url: str) -> None:
        self._store = open_store(url)

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns the images; their sizes are estimates."""
        return self._store.list_objects()

    def read(self, key: str) -> bytes:
        """Returns the JPEG of a key."""
        return bytes(asyncio.run(self._store.fetch(key)).data)


class ZipSource:
    """Files in a zip archive.

    Raises:
        UserError: The file is not a zip archive, is damaged or is rejected (see `rejection_reason`).
    """

    def __init__(self, path: Path) -> None:
        try:
            self._archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            with path.open("rb") as file:
                start = file.read(16)
            raise UserError(f"{path} is not a complete zip archive ({error}); it begins with {start!r}") from error
        except (OSError, NotImplementedError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        infos = self._archive.infolist()
        for info in infos:  # old Windows tools write backslashes
            info.filename = info.filename.replace("\\", "/")
        if reason := rejection_reason(infos, path.stat().st_size):
            self._archive.close()
            raise UserError(f"{path} is rejected: {reason}; nothing was read from it")
        self._infos = {info.filename: info for info in infos if not info.is_dir()}

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns the files in the archive."""
        return [ObjectInfo(name, info.file_size, f"{info.CRC:08x}") for name, info in self._infos.items()]

    def read(self, key: str) -> bytes:
        """Returns the content of a file, verified by its CRC and limited to its listed size."""
        try:
            return self._archive.read(self._infos[key])
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise ImageError(f"damaged in the archive: {error}") from error


def rejection_reason(infos: list[zipfile.ZipInfo], archive_bytes: int) -> str:
    """Returns why an archive is rejected; empty if it is not.

    Args:
        infos: Entries of the archive.
        archive_bytes: Size of the archive in bytes.
    """
    for info in infos:
        if reason := _entry_problem(info):
            return f"{info.orig_filename!r} {reason}"
    for name, count in Counter(info.filename for info in infos).items():
        if count > 1:
            return f"it contains {name!r} {count} times"
    unpacked = sum(info.file_size for info in infos)
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * archive_bytes:
        return f"it is a zip bomb: {archive_bytes / 1e6:.1f} MB unpack to {unpacked / 1e6:,.0f} MB"
    for one, other in pairwise(sorted(infos, key=lambda info: info.header_offset)):
        if one.header_offset + _LOCAL_HEADER_BYTES + len(one.filename) + one.compress_size > other.header_offset:
            return f"it is a zip bomb: {one.filename!r} and {other.filename!r} overlap"
    return ""


def _entry_problem(info: zipfile.ZipInfo) -> str:
    """Returns what is wrong with the path or type of an entry; empty if it is valid."""
    path, parts = info.orig_filename, re.split(r"[/\\]", info.orig_filename)
    file_type = stat.S_IFMT(info.external_attr >> 16)
    if ".." in parts:
        return "is outside the archive"
    if not parts[0] or "\0" in path or re.match(r"[A-Za-z]:", path):
        return "is not a relative path"
    if file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    return "is encrypted; unpack the archive and publish the folder" if info.flag_bits & 1 else ""
