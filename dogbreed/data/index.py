"""A listing to classes and splits: pure, nothing is read here."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dogbreed.data.splits import stratified
from dogbreed.data.store import Entry
from dogbreed.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Files that are taken for pictures."""

SPLITS = ("train", "valid", "test")
_SPLIT_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}

_LAYOUT = "train/CLASS/*.jpg, valid/CLASS/*.jpg, test/CLASS/*.jpg, or CLASS/*.jpg"


class Note(NamedTuple):
    """Something to say in the log about a listing."""

    level: int
    text: str


@dataclass(frozen=True)
class Split:
    """The pictures of one split, in the order of their keys."""

    keys: list[str]
    labels: NDArray[np.int64]
    """int64 (N,): index in `Index.classes`."""
    sizes: NDArray[np.int64]
    """int64 (N,): bytes."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, positions: Sequence[int]) -> Split:
        """Returns the pictures at `positions`."""
        return Split([self.keys[position] for position in positions], self.labels[positions], self.sizes[positions])


@dataclass(frozen=True)
class Index:
    """What lies under a URL."""

    classes: list[str]
    """Sorted names of the class folders in train."""
    splits: dict[str, Split]
    fingerprint: str
    """Changes when a picture is added, taken away or changed; 16 hexadecimal digits."""
    notes: list[Note]


def build_index(entries: Iterable[Entry], url: str, *, valid_fraction: float, test_fraction: float, seed: int) -> Index:
    """Returns the classes and splits of a listing; splits that are missing are made from train.

    Args:
        entries: The listing, in any order.
        url: For messages.
        valid_fraction: Part of train to validate on, where the listing has no such split.
        test_fraction: Part of train to test on, where the listing has no such split.
        seed: Of the splits that are made.

    Raises:
        UserError: no pictures, no train, or classes in another split that train has not.
    """
    notes: list[Note] = []
    pictures, others = _pictures(entries, notes)
    layout = _Layout.of([*pictures, *others], url)
    members: dict[str, dict[str, str]] = {name: {} for name in SPLITS}
    outside = []
    for key in pictures:
        if place := layout.place(key):
            members[place.split][key] = place.folder
        else:
            outside.append(key)
    if outside:
        notes.append(Note(logging.WARNING, f"{url}: left out, as not in {layout.expected}: {_count(outside)}"))
    if not members["train"]:
        found = f"{_count(pictures)}, but none in a class folder of train" if pictures else "no pictures"
        raise UserError(f"data.url={url!r}: {found}; expected below it: {_LAYOUT} (a class is a folder)")
    classes = sorted(set(members["train"].values()))
    if empty := layout.classes(others) - set(classes):
        names = ", ".join(sorted(empty))
        notes.append(Note(logging.WARNING, f"{url}: class folders without pictures are left out: {names}"))
    splits = {name: _split(name, found, classes, pictures, url) for name, found in members.items() if found}
    _make_missing(splits, {"valid": valid_fraction, "test": test_fraction}, seed, notes)
    return Index(classes, splits, _fingerprint(pictures), notes)


def _pictures(entries: Iterable[Entry], notes: list[Note]) -> tuple[dict[str, Entry], list[str]]:
    """Returns the pictures by key, sorted, and the keys of everything else, empty folders too."""
    pictures, others, suffixes = [], [], Counter[str]()
    for entry in entries:
        name = entry.key.rpartition("/")[2]
        suffix = name[name.rfind(".") :].lower() if "." in name else ""
        if any(part.startswith(".") or part == "__MACOSX" for part in entry.key.split("/")):
            continue  # .DS_Store, ._picture.jpg, .ipynb_checkpoints: nobody put these there as data
        if suffix in SUFFIXES:
            pictures.append(entry)
            continue
        others.append(entry.key)
        if name:
            suffixes[suffix or "no suffix"] += 1
    if suffixes:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
        notes.append(Note(logging.INFO, f"{suffixes.total()} files that are not pictures are left out ({kinds})"))
    return {entry.key: entry for entry in sorted(pictures)}, others


class _Place(NamedTuple):
    split: str
    folder: str


@dataclass(frozen=True)
class _Layout:
    """Where splits and classes stand in a key."""

    folders: dict[str, str]
    """Top folder to split; empty where classes are the top folders."""

    @classmethod
    def of(cls, keys: Iterable[str], url: str) -> _Layout:
        tops = {key.partition("/")[0] for key in keys if "/" in key}
        folders = {top: _SPLIT_FOLDERS[top.lower()] for top in sorted(tops) if top.lower() in _SPLIT_FOLDERS}
        for name, count in Counter(folders.values()).items():
            if count > 1:
                given = " and ".join(repr(top) for top, split in folders.items() if split == name)
                raise UserError(f"data.url={url!r} has {given}, which mean the same split; keep one of them")
        return cls(folders)

    @property
    def expected(self) -> str:
        return " or ".join(f"{top}/CLASS/" for top in self.folders) or "a class folder"

    def place(self, key: str) -> _Place | None:
        """Returns the split and class folder of a key, or None for one outside of them."""
        parts = key.split("/")
        if not self.folders:
            return _Place("train", parts[0]) if len(parts) > 1 else None
        return _Place(self.folders[parts[0]], parts[1]) if len(parts) > 2 and parts[0] in self.folders else None

    def classes(self, keys: Iterable[str]) -> set[str]:
        """Returns the class folders in train that any of `keys` lies in."""
        places = (self.place(key) for key in keys)
        return {place.folder for place in places if place and place.split == "train"}


def _split(name: str, members: dict[str, str], classes: list[str], pictures: dict[str, Entry], url: str) -> Split:
    """Returns the split of `members` (key to class folder, sorted by key)."""
    numbers = {folder: number for number, folder in enumerate(classes)}
    if unknown := sorted(set(members.values()) - numbers.keys()):
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise UserError(
            f"data.url={url!r}: {name} has classes that train has not: {', '.join(unknown[:5])}{more}; "
            f"give them pictures in train or take them out of {name}"
        )
    return Split(
        list(members),
        np.array([numbers[folder] for folder in members.values()], dtype=np.int64),
        np.array([pictures[key].size for key in members], dtype=np.int64),
    )


def _make_missing(splits: dict[str, Split], fractions: dict[str, float], seed: int, notes: list[Note]) -> None:
    """Adds to `splits` those that are missing, taken from train."""
    missing = [name for name in fractions if name not in splits]
    if not missing:
        return
    train = splits["train"]
    *made, rest = stratified(train.keys, train.labels.tolist(), [fractions[name] for name in missing], seed)
    for name, positions in zip(missing, made, strict=True):
        splits[name] = train.take(positions)
        part = f"{len(positions)} of {_count(train.keys)}"
        notes.append(
            Note(logging.INFO, f"no {name} split: made from train, {part} ({fractions[name]:.0%} a class, seed {seed})")
        )
    splits["train"] = train.take(rest)


def _count(pictures: Sized) -> str:
    return f"{len(pictures)} picture{'' if len(pictures) == 1 else 's'}"


def _fingerprint(pictures: dict[str, Entry]) -> str:
    digest = hashlib.sha256()
    for entry in pictures.values():
        digest.update(f"{entry.key}\0{entry.size}\0{entry.etag}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
