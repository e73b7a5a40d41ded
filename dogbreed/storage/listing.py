"""A listing packed into a few arrays: far smaller than Python objects, and shared with forked workers.

Reference counts of a million Python strings would be written, and so copied, in every forked worker.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from dogbreed.storage.base import ObjectInfo
from dogbreed.storage.manifest import MANIFEST

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Suffixes of the files that are treated as images, lower case."""

Folder = tuple[str, ...]
"""The first two folders of a key, or fewer if it has fewer: they hold split and class."""


class PackedStrings(Sequence[str]):
    """Strings in one buffer; equal to any sequence of the same strings.

    Args:
        text: All strings, UTF-8.
        starts: int64 (N,): start of each string in `text`, bytes.
        ends: int64 (N,): end of each string, bytes.
    """

    def __init__(self, text: bytearray, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        self._text, self._starts, self._ends = text, starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> PackedStrings: ...
    def __getitem__(self, position: int | slice) -> str | PackedStrings:
        if isinstance(position, slice):
            return PackedStrings(self._text, self._starts[position], self._ends[position])
        return self._text[self._starts[position] : self._ends[position]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[position] for position in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        more = f", ... {len(self) - 3} more" if len(self) > 3 else ""
        return f"PackedStrings({', '.join(map(repr, self[:3]))}{more})"

    def arrays(self) -> dict[str, Any]:
        """Returns the arrays by name, the text as uint8."""
        return {"text": np.frombuffer(self._text, np.uint8), "starts": self._starts, "ends": self._ends}

    def take(self, positions: NDArray[np.int64]) -> PackedStrings:
        """Returns the strings at `positions`, int64 (M,); the text is shared."""
        return PackedStrings(self._text, self._starts[positions], self._ends[positions])


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
        packer, other_folders, other_suffixes = _Packer(), set(), Counter[str]()
        for item in objects:
            if is_hidden(item.key) or item.key == MANIFEST:
                continue
            *parents, name = item.key.split("/")
            suffix = name[name.rfind(".") :].lower() if "." in name else ""
            folder = tuple(parents[:2])
            if suffix in IMAGE_SUFFIXES:
                packer.add(item, folder)
                continue
            other_folders.add(folder)
            if name:
                other_suffixes[suffix or "no suffix"] += 1
        return packer.listing(other_folders, other_suffixes)

    def save(self, file: Path) -> None:
        """Writes the listing to `file`."""
        names = json.dumps([self.fingerprint, self.folders, sorted(self.other_folders), self.other_suffixes])
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        with file.open("wb") as target:
            np.savez(target, names=np.frombuffer(names.encode(), np.uint8), **self.keys.arrays(), **arrays)

    @classmethod
    def load(cls, file: Path) -> Listing:
        """Returns the listing that `save` wrote.

        Raises:
            OSError, ValueError, KeyError, zipfile.BadZipFile: it is damaged.
        """
        with np.load(file) as arrays:
            fingerprint, folders, others, suffixes = json.loads(arrays["names"].tobytes())
            return cls(
                PackedStrings(bytearray(arrays["text"].tobytes()), arrays["starts"], arrays["ends"]),
                folders=[tuple(folder) for folder in folders],
                fingerprint=fingerprint,
                other_folders={tuple(folder) for folder in others},
                other_suffixes=Counter(suffixes),
                **{name: arrays[name] for name in _ARRAYS},
            )


_ARRAYS = ("sizes", "folder_numbers", "versions")


def is_hidden(key: str) -> bool:
    """Returns whether a tool created the file: `.DS_Store`, `.ipynb_checkpoints/...`, `__MACOSX/._image.jpg`."""
    path = f"/{key}/"
    return "/." in path or "/__MACOSX/" in path


@dataclass
class _Packer:
    """The arrays of a listing while it is read."""

    text: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    folder_numbers: array[int] = field(default_factory=lambda: array("i"))
    versions: array[int] = field(default_factory=lambda: array("Q"))
    folders: dict[Folder, int] = field(default_factory=dict)

    def add(self, item: ObjectInfo, folder: Folder) -> None:
        self.text += item.key.encode("utf-8", "surrogateescape")
        self.ends.append(len(self.text))
        self.sizes.append(item.size)
        self.folder_numbers.append(self.folders.setdefault(folder, len(self.folders)))
        self.versions.append(item.version)

    def listing(self, other_folders: set[Folder], other_suffixes: Counter[str]) -> Listing:
        text, ends = self.text, np.array(self.ends, dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
        order = _argsort(text, starts, ends)
        versions = np.array(self.versions, dtype=np.uint64)[order]
        return Listing(
            PackedStrings(text, starts[order], ends[order]),
            np.array(self.sizes, dtype=np.int64)[order],
            list(self.folders),
            np.array(self.folder_numbers, dtype=np.int32)[order],
            versions,
            hashlib.sha256(versions.astype(">u8").tobytes()).hexdigest()[:16],
            other_folders,
            other_suffixes,
        )


def _argsort(text: bytearray, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns int64 (N,): the positions that sort the strings, without creating Python strings.

    A radix sort, from the last group of eight bytes to the first.
    """
    content = np.frombuffer(text, dtype=np.uint8)
    order: NDArray[np.int64] = np.arange(len(starts), dtype=np.int64)
    longest = int((ends - starts).max(initial=0))
    for column in reversed(range(0, longest, 8)):
        words = np.zeros(len(starts), dtype=np.uint64)
        for place in range(column, column + 8):
            at = starts + place
            inside = at < ends
            words <<= np.uint64(8)
            words[inside] |= content[at[inside]].astype(np.uint64)
        order = order[np.argsort(words[order], kind="stable")]
    return order
