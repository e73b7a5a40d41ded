"""What is published: the files of a folder, of a zip archive, or generated ones.

An archive is never unpacked: its files are read out of it one by one, and it is refused, before anything is written,
where its names or sizes are those of an attack.
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
"""An archive that would unpack to more than both, the ratio of it to the archive and the bytes, is a bomb. Images are
compressed already: an archive of them is about as large as they are.
"""

_LOCAL_HEADER_BYTES = 30


class Source(Protocol):
    """Files to publish."""

    @property
    def url(self) -> str:
        """What the user gave, for messages."""

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns the files, each with its path and its size in bytes.

        Raises:
            UserError: they cannot be listed.
        """

    def read(self, key: str) -> bytes:
        """Returns the content of a file; several threads may call this.

        Raises:
            ImageError: this file cannot be read.
        """


def open_source(url: str) -> Source:
    """Returns the source that `url` names: a folder, a zip archive or `demo://`.

    Raises:
        UserError: there is none, or the archive is damaged or refused.
    """
    if url.startswith("demo://"):
        return DemoSource(url)
    path = Path(url.removeprefix("file://")).expanduser()
    if path.is_dir():
        return FolderSource(url, path)
    if not path.exists():
        raise UserError(f"{url}: no such file or folder; give a folder, a .zip file or an https:// address")
    return ZipSource(path)


class FolderSource:
    """Files below a folder; links are followed."""

    def __init__(self, url: str, root: Path) -> None:
        self.url, self.root = url, root

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns the files below the folder."""
        return FolderStore(self.url, self.root).list_objects()

    def read(self, key: str) -> bytes:
        """Returns a file's content."""
        try:
            return (self.root / key).read_bytes()
        except OSError as error:
            raise ImageError(error.strerror or str(error)) from error


class DemoSource:
    """Generated images: a data set to try things on."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._store = open_store(url)

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns the images; their size in bytes is a guess."""
        return self._store.list_objects()

    def read(self, key: str) -> bytes:
        """Returns the JPEG of a key."""
        return bytes(asyncio.run(self._store.fetch(key)).data)


class ZipSource:
    """Files in a zip archive.

    Raises:
        UserError: no zip archive, a damaged one, or one that is refused (see `refusal`).
    """

    def __init__(self, path: Path) -> None:
        self.url = str(path)
        try:
            self._archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            with path.open("rb") as file:
                begins = file.read(16)
            raise UserError(f"{path} is no whole zip archive ({error}); it begins with {begins!r}") from error
        except (OSError, NotImplementedError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        infos = self._archive.infolist()
        for info in infos:  # old tools of Windows write their own separator
            info.filename = info.filename.replace("\\", "/")
        if reason := refusal(infos, path.stat().st_size):
            self._archive.close()
            raise UserError(f"{path} is refused: {reason}; nothing was read from it")
        self._infos = {info.filename: info for info in infos if not info.is_dir()}

    def list_objects(self) -> Iterable[ObjectInfo]:
        """Returns the files in the archive."""
        return [ObjectInfo(name, info.file_size, f"{info.CRC:08x}") for name, info in self._infos.items()]

    def read(self, key: str) -> bytes:
        """Returns a file's content, checked against its CRC; never more bytes than the archive's directory says."""
        try:
            return self._archive.read(self._infos[key])
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise ImageError(f"damaged in the archive: {error}") from error


def refusal(infos: list[zipfile.ZipInfo], archive_bytes: int) -> str:
    """Returns why an archive is not opened, empty where nothing speaks against it.

    Args:
        infos: Its directory.
        archive_bytes: Its size.
    """
    for info in infos:
        if reason := _wrong_with(info):
            return f"{info.orig_filename!r} {reason}"
    for name, count in Counter(info.filename for info in infos).items():
        if count > 1:
            return f"{name!r} is in it {count} times"
    unpacked = sum(info.file_size for info in infos)
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * archive_bytes:
        return f"a zip bomb: {archive_bytes / 1e6:.1f} MB would become {unpacked / 1e6:,.0f} MB"
    for one, other in pairwise(sorted(infos, key=lambda info: info.header_offset)):
        if one.header_offset + _LOCAL_HEADER_BYTES + len(one.filename) + one.compress_size > other.header_offset:
            return f"a zip bomb: {one.filename!r} and {other.filename!r} are the same bytes of it"
    return ""


def _wrong_with(info: zipfile.ZipInfo) -> str:
    """Returns what is wrong with a name in an archive, or with what it is the name of; empty where nothing is."""
    parts = re.split(r"[/\\]", info.orig_filename)
    file_type = stat.S_IFMT(info.external_attr >> 16)
    wrongs = {
        "leads out of it": ".." in parts,
        "is no path within it": not parts[0] or "\0" in info.orig_filename or re.match(r"[A-Za-z]:", parts[0]),
        "is a link or a device, not a file": file_type not in (0, stat.S_IFREG, stat.S_IFDIR),
        "is encrypted; unpack it, and publish the folder": info.flag_bits & 1,
    }
    return next((reason for reason, wrong in wrongs.items() if wrong), "")
