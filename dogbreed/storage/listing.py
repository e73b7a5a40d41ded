"""A listing packed into a few arrays: far smaller than Python objects, and shared with forked workers.

Reference counts of a million Python strings would be written, and so copied, in every forked worker.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dogbreed.storage.base import ObjectInfo
from dogbreed.storage.manifest import MANIFEST

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Suffixes of the files that are treated as images, lower case."""

Folder = tuple[str, ...]
"""The first two folders of a key, or fewer if it has fewer: they hold split and class."""


class PackedStrings(Sequence[str]):
    """Strings in one array of UTF-8 bytes (N,); equal to any sequence of the same strings."""

    def __init__(self, encoded: NDArray[np.bytes_]) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return PackedStrings(self.encoded[position])
        return self.encoded[position].decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def take(self, positions: NDArray[np.int64]) -> PackedStrings:
        """Returns the strings at `positions`, int64 (M,)."""
        return PackedStrings(self.encoded[positions])


@dataclass(frozen=True)
class Listing:
    """The images under a URL, sorted by key, and a summary of the other files."""

    keys: PackedStrings
    sizes: NDArray[np.int64]
    """int64 (N,): bytes."""
    folders: list[Folder]
    """Every folder that contains images."""
    folder_numbers: NDArray[np.int32]
    """int32 (N,): position in `folders`."""
    versions: NDArray[np.uint64]
    """uint64 (N,): `ObjectInfo.version`."""
    fingerprint: str
    """Changes when an image is added, removed or modified; 16 hexadecimal digits."""
    other_folders: set[Folder]
    """Folders of files that are not images, and empty folders."""
    other_suffixes: Counter[str]
    """Number of files that are not images, by suffix."""

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def pack(cls, objects: Iterable[ObjectInfo]) -> Listing:
        """Returns the listing of `objects`, in any order and with unique keys; hidden files are excluded."""
        keys: list[bytes] = []
        sizes, folder_numbers, versions = array("q"), array("i"), array("Q")
        folders: dict[Folder, int] = {}
        other_folders, other_suffixes = set(), Counter[str]()
        for item in objects:
            if is_hidden(item.key) or item.key == MANIFEST:
                continue
            *parents, name = item.key.split("/")
            suffix = name[name.rfind(".") :].lower() if "." in name else ""
            folder = tuple(parents[:2])
            if suffix in IMAGE_SUFFIXES:
                keys.append(item.key.encode("utf-8", "surrogateescape"))
                sizes.append(item.size)
                folder_numbers.append(folders.setdefault(folder, len(folders)))
                versions.append(item.version)
                continue
            other_folders.add(folder)
            if name:
                other_suffixes[suffix or "no suffix"] += 1
        encoded = np.array(keys, dtype=np.bytes_)
        order = np.argsort(encoded, kind="stable")
        sorted_versions = np.array(versions, dtype=np.uint64)[order]
        return cls(
            PackedStrings(encoded[order]),
            np.array(sizes, dtype=np.int64)[order],
            list(folders),
            np.array(folder_numbers, dtype=np.int32)[order],
            sorted_versions,
            hashlib.sha256(sorted_versions.astype(">u8").tobytes()).hexdigest()[:16],
            other_folders,
            other_suffixes,
        )

    def save(self, file: Path) -> None:
        """Writes the listing to `file`."""
        names = json.dumps([self.fingerprint, self.folders, sorted(self.other_folders), self.other_suffixes])
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        with file.open("wb") as target:
            np.savez(target, names=np.frombuffer(names.encode(), np.uint8), keys=self.keys.encoded, **arrays)

    @classmethod
    def load(cls, file: Path) -> Listing:
        """Returns the listing that `save` wrote.

        Raises:
            OSError, ValueError, KeyError, zipfile.BadZipFile: it is damaged.
        """
        with np.load(file) as arrays:
            fingerprint, folders, others, suffixes = json.loads(arrays["names"].tobytes())
            return cls(
                PackedStrings(arrays["keys"]),
                folders=[tuple(folder) for folder in folders],
                fingerprint=fingerprint,
                other_folders={tuple(folder) for folder in others},
                other_suffixes=Counter(suffixes),
                **{name: arrays[name] for name in _ARRAYS},
            )


_ARRAYS = ("sizes", "folder_numbers", "versions")


_TOOL_FOLDERS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Folders that operating systems and network disks add."""


def is_hidden(key: str) -> bool:
    """Returns whether a tool created the file: `.DS_Store`, `.ipynb_checkpoints/...`, `__MACOSX/._image.jpg`."""
    path = f"/{key}/"
    return "/." in path or any(f"/{folder}/" in path for folder in _TOOL_FOLDERS)
