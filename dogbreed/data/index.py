"""A listing to classes and splits: pure, nothing is read here."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dogbreed.data.splits import stratified
from dogbreed.errors import UserError
from dogbreed.storage.base import ObjectInfo
from dogbreed.storage.listing import Folder, Listing, pack

SPLITS = ("train", "valid", "test")
_SPLIT_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}

_LAYOUT = "train/CLASS/*.jpg, valid/CLASS/*.jpg, test/CLASS/*.jpg, or CLASS/*.jpg"


class Note(NamedTuple):
    """Something to say in the log about a listing."""

    level: int
    text: str


@dataclass(frozen=True)
class Split:
    """The images of one split, in the order of their keys."""

    keys: Sequence[str]
    labels: NDArray[np.int64]
    """int64 (N,): index in `Index.classes`."""
    sizes: NDArray[np.int64]
    """int64 (N,): bytes."""
    versions: NDArray[np.uint64] | None = None
    """uint64 (N,): `ObjectInfo.version`; None: not known."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, positions: NDArray[np.int64]) -> Split:
        """Returns the images at `positions`, int64 (M,), in that order."""
        keys = [self.keys[position] for position in positions.tolist()]
        versions = None if self.versions is None else self.versions[positions]
        return Split(keys, self.labels[positions], self.sizes[positions], versions)


@dataclass(frozen=True)
class Index:
    """What lies under a URL."""

    classes: list[str]
    """Sorted names of the class folders in train."""
    splits: dict[str, Split]
    fingerprint: str
    """Changes when an image is added, taken away or changed; 16 hexadecimal digits."""
    notes: list[Note]


def build_index(
    entries: Iterable[ObjectInfo] | Listing, url: str, *, valid_fraction: float, test_fraction: float, seed: int
) -> Index:
    """Returns the classes and splits of a listing; splits that are missing are made from train.

    Args:
        entries: The listing, packed, or entries in any order.
        url: For messages.
        valid_fraction: Part of train to validate on, where the listing has no such split.
        test_fraction: Part of train to test on, where the listing has no such split.
        seed: Of the splits that are made.

    Raises:
        UserError: no images, no train, or classes in another split that train has not.
    """
    listing = entries if isinstance(entries, Listing) else pack(entries)
    notes = _others(listing)
    layout = _Layout.of([*listing.folders, *listing.other_folders], url)
    places = [layout.place(folder) for folder in listing.folders]
    inside = np.array([place is not None for place in places], dtype=bool)[listing.folder_numbers]
    if outside := int(len(listing) - inside.sum()):
        notes.append(Note(logging.WARNING, f"{url}: left out, as not in {layout.expected}: {_count(outside)}"))
    classes = sorted({place.folder for place in places if place and place.split == "train"})
    if not classes:
        found = f"{_count(len(listing))}, but none in a class folder of train" if len(listing) else "no images"
        raise UserError(f"data.url={url!r}: {found}; expected below it: {_LAYOUT} (a class is a folder)")
    if empty := layout.classes(listing.other_folders) - set(classes):
        names = ", ".join(sorted(empty))
        notes.append(Note(logging.WARNING, f"{url}: class folders without images are left out: {names}"))
    labels = _labels(listing, places, classes, url)
    members = {name: _members(listing, places, name) for name in SPLITS}
    members = {name: positions for name, positions in members.items() if len(positions)}
    fractions = {"valid": valid_fraction, "test": test_fraction}
    _make_missing(members, listing, labels, fractions=fractions, seed=seed, notes=notes)
    splits = {
        name: Split(listing.keys.take(at), labels[at], listing.sizes[at], listing.versions[at])
        for name, at in members.items()
    }
    return Index(classes, splits, listing.fingerprint, notes)


def _others(listing: Listing) -> list[Note]:
    suffixes = listing.other_suffixes
    if not suffixes:
        return []
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
    return [Note(logging.INFO, f"{suffixes.total()} files that are not images are left out ({kinds})")]


class _Place(NamedTuple):
    split: str
    folder: str


@dataclass(frozen=True)
class _Layout:
    """Where splits and classes stand in a key."""

    folders: dict[str, str]
    """Top folder to split; empty where classes are the top folders."""

    @classmethod
    def of(cls, below: Iterable[Folder], url: str) -> _Layout:
        tops = {folder[0] for folder in below if folder}
        folders = {top: _SPLIT_FOLDERS[top.lower()] for top in sorted(tops) if top.lower() in _SPLIT_FOLDERS}
        for name, count in Counter(folders.values()).items():
            if count > 1:
                given = " and ".join(repr(top) for top, split in folders.items() if split == name)
                raise UserError(f"data.url={url!r} has {given}, which mean the same split; keep one of them")
        return cls(folders)

    @property
    def expected(self) -> str:
        return " or ".join(f"{top}/CLASS/" for top in self.folders) or "a class folder"

    def place(self, folder: Folder) -> _Place | None:
        """Returns the split and class of a folder, or None for one outside of them."""
        if not self.folders:
            return _Place("train", folder[0]) if folder else None
        return _Place(self.folders[folder[0]], folder[1]) if len(folder) > 1 and folder[0] in self.folders else None

    def classes(self, below: Iterable[Folder]) -> set[str]:
        """Returns the classes of train that any of the folders `below` is of."""
        places = (self.place(folder) for folder in below)
        return {place.folder for place in places if place and place.split == "train"}


def _labels(listing: Listing, places: list[_Place | None], classes: list[str], url: str) -> NDArray[np.int64]:
    """Returns int64 (N,): the class of each image; -1 outside of the class folders."""
    numbers = {folder: number for number, folder in enumerate(classes)}
    for split in SPLITS:
        if unknown := sorted({place.folder for place in places if place and place.split == split} - numbers.keys()):
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise UserError(
                f"data.url={url!r}: {split} has classes that train has not: {', '.join(unknown[:5])}{more}; "
                f"give them images in train or take them out of {split}"
            )
    of_folder = np.array([numbers[place.folder] if place else -1 for place in places], dtype=np.int64)
    return of_folder[listing.folder_numbers]


def _members(listing: Listing, places: list[_Place | None], split: str) -> NDArray[np.int64]:
    """Returns int64 (M,): positions of the split's images in the listing."""
    wanted = np.array([place is not None and place.split == split for place in places], dtype=bool)
    return np.flatnonzero(wanted[listing.folder_numbers])


def _make_missing(
    members: dict[str, NDArray[np.int64]],
    listing: Listing,
    labels: NDArray[np.int64],
    *,
    fractions: dict[str, float],
    seed: int,
    notes: list[Note],
) -> None:
    """Adds to `members` the splits that are missing, taken from train."""
    missing = [name for name in fractions if name not in members]
    if not missing:
        return
    train = members["train"]
    wanted = [fractions[name] for name in missing]
    *made, rest = stratified(listing.keys.take(train), labels[train].tolist(), wanted, seed)
    for name, positions in zip(missing, made, strict=True):
        members[name] = train[positions]
        part = f"{len(positions)} of {_count(len(train))}"
        notes.append(
            Note(logging.INFO, f"no {name} split: made from train, {part} ({fractions[name]:.0%} a class, seed {seed})")
        )
    members["train"] = train[rest]


def _count(images: int) -> str:
    return f"{images} image{'' if images == 1 else 's'}"
