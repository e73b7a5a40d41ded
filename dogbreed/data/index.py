"""Derives classes and splits from a listing; pure, without I/O."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dogbreed.errors import UserError
from dogbreed.storage.base import ObjectInfo
from dogbreed.storage.listing import Folder, Listing

SPLITS = ("train", "val", "test")

SPLIT_FOLDERS = {"train": "train", "valid": "val", "val": "val", "validation": "val", "test": "test"}
"""Lower-case folder names that are recognised as splits."""

_LIKE_SPLITS = (
    r"([a-z]+[_ -])?(train|training|valid|validation|val|dev|test|testing|eval)([_ -]?(set|data|images|split))?"
)
"""Lower-case folder names that mean a split but are not recognised, if no folder has another name."""

_LAYOUT = "train/CLASS/*.jpg, valid/CLASS/*.jpg, test/CLASS/*.jpg, or CLASS/*.jpg"


class Note(NamedTuple):
    """A message about a listing, for the log."""

    level: int
    """Of the `logging` module."""
    text: str


@dataclass(frozen=True)
class Split:
    """The images of one split, sorted by key."""

    keys: Sequence[str]
    labels: NDArray[np.int64]
    """int64 (N,): index in `Index.classes`."""
    sizes: NDArray[np.int64]
    """int64 (N,): bytes."""
    versions: NDArray[np.uint64] | None = None
    """uint64 (N,): `ObjectInfo.version`; None if unknown."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, positions: NDArray[np.int64]) -> Split:
        """Returns the images at `positions`, int64 (M,), in that order."""
        keys = [self.keys[position] for position in positions.tolist()]
        versions = None if self.versions is None else self.versions[positions]
        return Split(keys, self.labels[positions], self.sizes[positions], versions)


@dataclass(frozen=True)
class Index:
    """The data set under a URL."""

    classes: list[str]
    """Sorted names of train's class folders."""
    splits: dict[str, Split]
    """By the names in `SPLITS`."""
    fingerprint: str
    """Changes when an image is added, removed or modified; 16 hexadecimal digits."""
    notes: list[Note]


def build_index(
    objects: Iterable[ObjectInfo] | Listing, url: str, *, val_fraction: float, test_fraction: float, seed: int
) -> Index:
    """Returns the classes and splits of a listing; missing splits are made from train.

    Args:
        objects: A packed listing, or objects in any order.
        url: For messages.
        val_fraction: Fraction of train's images for a missing val split.
        test_fraction: Fraction of train's images for a missing test split.
        seed: Determines which images of train these are.

    Raises:
        UserError: no images, no train split, or another split has classes that train does not have.
    """
    listing = objects if isinstance(objects, Listing) else Listing.pack(objects)
    notes = _note_other_files(listing)
    layout = _Layout.of([*listing.folders, *listing.other_folders], url)
    places = [layout.place(folder) for folder in listing.folders]
    inside = np.array([place is not None for place in places], dtype=bool)[listing.folder_numbers]
    if outside := int(len(listing) - inside.sum()):
        notes.append(Note(logging.WARNING, f"{url}: skipped {_count(outside)} outside {layout.expected}"))
    classes = sorted({place.folder for place in places if place and place.split == "train"})
    if not classes:
        found = f"{_count(len(listing))}, but none in a class folder of train" if len(listing) else "no images"
        raise UserError(f"data.url={url!r}: {found}; expected below it: {_LAYOUT} (one folder per class)")
    _check_depth(listing, layout, classes, url)
    if empty := layout.train_classes(listing.other_folders) - set(classes):
        names = ", ".join(sorted(empty))
        notes.append(Note(logging.WARNING, f"{url}: skipped class folders without images: {names}"))
    labels = _labels(listing, places, classes, url)
    members = {name: _members(listing, places, name) for name in SPLITS}
    members = {name: positions for name, positions in members.items() if len(positions)}
    fractions = {"val": val_fraction, "test": test_fraction}
    _add_missing_splits(members, listing, labels, fractions=fractions, seed=seed, notes=notes)
    splits = {
        name: Split(listing.keys.take(at), labels[at], listing.sizes[at], listing.versions[at])
        for name, at in members.items()
    }
    return Index(classes, splits, listing.fingerprint, notes)


def _note_other_files(listing: Listing) -> list[Note]:
    suffixes = listing.other_suffixes
    if not suffixes:
        return []
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
    return [Note(logging.INFO, f"skipped {suffixes.total()} files that are not images ({kinds})")]


def _check_depth(listing: Listing, layout: _Layout, classes: list[str], url: str) -> None:
    """Checks that the classes are not one folder further down."""
    inner = sorted({folder[1] for folder in listing.folders if len(folder) > 1 and folder[0] in classes})
    if len(classes) == 1 and not layout.folders and len(inner) > 1:
        raise UserError(
            f"data.url={url!r}: all images are in {classes[0]!r}, with the folders {', '.join(inner[:3])}"
            f"{', ...' if len(inner) > 3 else ''}: type data.url={url.rstrip('/')}/{classes[0]}"
        )


class _Place(NamedTuple):
    """The split and class folder of an image."""

    split: str
    folder: str


@dataclass(frozen=True)
class _Layout:
    """Which parts of a key name the split and the class."""

    folders: dict[str, str]
    """Top folder to split; empty if the class folders are at the top."""

    @classmethod
    def of(cls, folders: Iterable[Folder], url: str) -> _Layout:
        tops = {folder[0] for folder in folders if folder}
        unknown = sorted(tops - {top for top in tops if top.lower() in SPLIT_FOLDERS})
        if unknown and all(top not in unknown or re.fullmatch(_LIKE_SPLITS, top.lower()) for top in tops):
            raise UserError(
                f"data.url={url!r}: folder {' and '.join(map(repr, unknown))} looks like a split: rename it to train, "
                "val or test"
            )
        splits = {top: SPLIT_FOLDERS[top.lower()] for top in sorted(tops) if top.lower() in SPLIT_FOLDERS}
        for name, count in Counter(splits.values()).items():
            if count > 1:
                given = " and ".join(repr(top) for top, split in splits.items() if split == name)
                raise UserError(f"data.url={url!r} has {given}, which mean the same split; keep one of them")
        return cls(splits)

    @property
    def expected(self) -> str:
        return " or ".join(f"{top}/CLASS/" for top in self.folders) or "a class folder"

    def place(self, folder: Folder) -> _Place | None:
        """Returns the split and class of a folder, or None if it is outside the class folders."""
        if not self.folders:
            return _Place("train", folder[0]) if folder else None
        return _Place(self.folders[folder[0]], folder[1]) if len(folder) > 1 and folder[0] in self.folders else None

    def train_classes(self, folders: Iterable[Folder]) -> set[str]:
        """Returns the classes of train that `folders` belong to."""
        places = (self.place(folder) for folder in folders)
        return {place.folder for place in places if place and place.split == "train"}


def _labels(listing: Listing, places: list[_Place | None], classes: list[str], url: str) -> NDArray[np.int64]:
    """Returns int64 (N,): the class of each image; -1 outside the class folders."""
    numbers = {folder: number for number, folder in enumerate(classes)}
    for split in SPLITS:
        if unknown := sorted({place.folder for place in places if place and place.split == split} - numbers.keys()):
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise UserError(
                f"data.url={url!r}: {split} has classes that train does not have: {', '.join(unknown[:5])}{more}; "
                f"add images of them to train or remove them from {split}"
            )
    of_folder = np.array([numbers[place.folder] if place else -1 for place in places], dtype=np.int64)
    return of_folder[listing.folder_numbers]


def _members(listing: Listing, places: list[_Place | None], split: str) -> NDArray[np.int64]:
    """Returns int64 (M,): positions of the split's images in the listing."""
    in_split = np.array([place is not None and place.split == split for place in places], dtype=bool)
    return np.flatnonzero(in_split[listing.folder_numbers])


def _add_missing_splits(
    members: dict[str, NDArray[np.int64]],
    listing: Listing,
    labels: NDArray[np.int64],
    *,
    fractions: dict[str, float],
    seed: int,
    notes: list[Note],
) -> None:
    """Adds the missing splits to `members`, with images taken from train."""
    missing = [name for name in fractions if name not in members]
    if not missing:
        return
    train = members["train"]
    sizes = [fractions[name] for name in missing]
    *made, rest = stratified_split(listing.keys.take(train), labels[train].tolist(), sizes, seed)
    for name, positions in zip(missing, made, strict=True):
        members[name] = train[positions]
        if fractions[name] and not len(positions):
            notes.append(Note(logging.WARNING, f"{name} is empty: no class of train has enough images to give one"))
        share = f"{len(positions)} of {_count(len(train))} ({fractions[name]:.0%} per class, seed {seed})"
        notes.append(Note(logging.INFO, f"no {name} split: made from train, {share}"))
    members["train"] = train[rest]


def _count(images: int) -> str:
    return f"{images} image{'' if images == 1 else 's'}"


def stratified_split(
    keys: Sequence[str], labels: Sequence[int], fractions: Sequence[float], seed: int
) -> tuple[list[int], ...]:
    """Returns sorted positions in `keys`: one list per fraction, and finally the rest.

    Within a class, images are ordered by a hash of seed and key, so adding or removing an image moves few others. Each
    fraction gets at least one image of every class that has enough; at least one image of a class stays in the rest.

    Args:
        keys: Keys of the images.
        labels: Class index of each image.
        fractions: Fraction of every class that each new split takes, 0 to 1, together below 1.
        seed: Determines the splits.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        members[label].append(position)
    splits: list[list[int]] = [[] for _ in range(len(fractions) + 1)]
    for positions in members.values():
        positions.sort(key=lambda position: _hash(keys[position], seed))
        start = 0
        for split, fraction in zip(splits, fractions, strict=False):
            wanted = max(1, round(fraction * len(positions))) if fraction else 0
            count = min(wanted, len(positions) - 1 - start)
            split.extend(positions[start : start + count])
            start += count
        splits[-1].extend(positions[start:])
    return tuple(sorted(split) for split in splits)


def _hash(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest()
