"""A listing packed into few arrays: a million keys in 80 MB, and shared with the workers instead of copied.

As Python objects a million keys, sizes and ETags are 400 MB, and counting references to them would copy those pages
into every forked worker.
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

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Files that are taken for images."""

Folder = tuple[str, ...]
"""The first two folders of a key, or as many as it has: where split and class stand."""


class Keys(Sequence[str]):
    """Strings in one piece of memory; equal to any sequence of the same strings.

    Args:
        text: All of them, UTF-8.
        starts: int64 (N,): where each begins in `text`, bytes.
        ends: int64 (N,): where each ends.
    """

    def __init__(self, text: bytearray, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        self._text, self._starts, self._ends = text, starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> Keys: ...
    def __getitem__(self, position: int | slice) -> str | Keys:
        if isinstance(position, slice):
            return Keys(self._text, self._starts[position], self._ends[position])
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
        return f"Keys({', '.join(map(repr, self[:3]))}{more})"

    def arrays(self) -> dict[str, Any]:
        """Returns what they are made of, the text as uint8."""
        return {"text": np.frombuffer(self._text, np.uint8), "starts": self._starts, "ends": self._ends}

    def take(self, positions: NDArray[np.int64]) -> Keys:
        """Returns those at `positions`, int64 (M,); the text is shared."""
        return Keys(self._text, self._starts[positions], self._ends[positions])


@dataclass(frozen=True)
class Listing:
    """The images under a URL, sorted by key, and what else lies there."""

    keys: Keys
    sizes: NDArray[np.int64]
    """int64 (N,): bytes."""
    folders: list[Folder]
    """Every folder that images lie in."""
    folder_numbers: NDArray[np.int32]
    """int32 (N,): position in `folders`."""
    versions: NDArray[np.uint64]
    """uint64 (N,): `ObjectInfo.version`."""
    fingerprint: str
    """Changes when an image is added, taken away or changed; 16 hexadecimal digits."""
    other_folders: set[Folder]
    """Of the files that are no images, and of folders without files."""
    other_suffixes: Counter[str]
    """How many files of which suffix are no images."""

    def __len__(self) -> int:
        return len(self.keys)

    def save(self, file: Path) -> None:
        """Writes it all to `file`."""
        names = json.dumps([self.fingerprint, self.folders, sorted(self.other_folders), self.other_suffixes])
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        with file.open("wb") as target:
            np.savez(target, names=np.frombuffer(names.encode(), np.uint8), **self.keys.arrays(), **arrays)

    @classmethod
    def load(cls, file: Path) -> Listing:
        """Returns what `save` wrote.

        Raises:
            OSError, ValueError, KeyError, zipfile.BadZipFile: it is damaged.
        """
        with np.load(file) as arrays:
            fingerprint, folders, others, suffixes = json.loads(arrays["names"].tobytes())
            return cls(
                Keys(bytearray(arrays["text"].tobytes()), arrays["starts"], arrays["ends"]),
                folders=[tuple(folder) for folder in folders],
                fingerprint=fingerprint,
                other_folders={tuple(folder) for folder in others},
                other_suffixes=Counter(suffixes),
                **{name: arrays[name] for name in _ARRAYS},
            )


_ARRAYS = ("sizes", "folder_numbers", "versions")


@dataclass
class _Packing:
    """The arrays while entries still come."""

    text: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    folder_numbers: array[int] = field(default_factory=lambda: array("i"))
    versions: array[int] = field(default_factory=lambda: array("Q"))
    folders: dict[Folder, int] = field(default_factory=dict)

    def add(self, entry: ObjectInfo, folder: Folder) -> None:
        key = entry.key.encode("utf-8", "surrogateescape")
        self.text += key
        self.ends.append(len(self.text))
        self.sizes.append(entry.size)
        self.folder_numbers.append(self.folders.setdefault(folder, len(self.folders)))
        self.versions.append(entry.version)

    def listing(self, other_folders: set[Folder], other_suffixes: Counter[str]) -> Listing:
        text, ends = self.text, np.array(self.ends, dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
        order = _order(text, starts, ends)
        versions = np.array(self.versions, dtype=np.uint64)[order]
        return Listing(
            Keys(text, starts[order], ends[order]),
            np.array(self.sizes, dtype=np.int64)[order],
            list(self.folders),
            np.array(self.folder_numbers, dtype=np.int32)[order],
            versions,
            hashlib.sha256(versions.astype(">u8").tobytes()).hexdigest()[:16],
            other_folders,
            other_suffixes,
        )


def pack(entries: Iterable[ObjectInfo]) -> Listing:
    """Returns the listing of `entries`, which may come in any order, each key once; what is hidden is left out."""
    packing, other_folders, other_suffixes = _Packing(), set(), Counter[str]()
    for entry in entries:
        path = f"/{entry.key}/"
        if "/." in path or "/__MACOSX/" in path:
            continue  # .DS_Store, ._image.jpg, .ipynb_checkpoints: nobody put these there as data
        if entry.key == MANIFEST:
            continue
        *parents, name = entry.key.split("/")
        suffix = name[name.rfind(".") :].lower() if "." in name else ""
        folder = tuple(parents[:2])
        if suffix in SUFFIXES:
            packing.add(entry, folder)
            continue
        other_folders.add(folder)
        if name:
            other_suffixes[suffix or "no suffix"] += 1
    return packing.listing(other_folders, other_suffixes)


def _order(text: bytearray, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns int64 (N,): the positions of the strings in sorted order, without making them Python objects.

    Eight bytes of each string at a time, from the last to the first, by a stable sort.
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
