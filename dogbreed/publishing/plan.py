"""What is published under which key, and what is left out and why. Pure, apart from `check_all`, which reads."""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import NamedTuple

from dogbreed.data.index import SPLITS, Index, build_index
from dogbreed.errors import UserError
from dogbreed.publishing.checks import MAX_BYTES, Checked, examine, kind_of
from dogbreed.publishing.sources import Source
from dogbreed.storage.base import ImageError, ObjectInfo
from dogbreed.storage.listing import IMAGE_SUFFIXES
from dogbreed.storage.manifest import ImageFile
from dogbreed.system.cpu import cpu_count

_SPLIT_FOLDERS = ("train", "valid", "val", "validation", "test")
_CHUNK = 32
"""Files that a thread takes at a time."""


_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and bytes of a name that is not UTF-8."""


class Remark(NamedTuple):
    """Something to tell about one file of the source."""

    kind: str
    """`left out`, `mended` or `noted`."""
    key: str
    """Below the source."""
    text: str


@dataclass(frozen=True)
class Plan:
    """What will lie under the URL."""

    images: list[Checked]
    """Sorted by name."""
    remarks: list[Remark]
    notes: list[str]
    """About the data set as a whole."""
    index: Index
    """The classes and splits, as a training will find them."""


def candidates(entries: Iterable[ObjectInfo]) -> list[ObjectInfo]:
    """Returns the files that nobody hid: neither `.DS_Store` nor `__MACOSX/._x.jpg`."""
    return [entry for entry in entries if entry.key[-1:] != "/" and not _is_hidden(entry.key)]


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in key.split("/"))


def check_all(
    source: Source, entries: Sequence[ObjectInfo], known: Mapping[str, ImageFile], tell: Callable[[int], None]
) -> Iterator[Checked]:
    """Yields what is found out about each file, in order; all processors look at once.

    Decoding and hashing need no lock of the interpreter, so threads do. Files that are neither called images nor
    begin like one are passed over.

    Args:
        source: Where they are read.
        entries: Which.
        known: Images that were checked before, by hash.
        tell: Hears how many more files were looked at.
    """
    chunks = [entries[start : start + _CHUNK] for start in range(0, len(entries), _CHUNK)]
    with warnings.catch_warnings(), ThreadPoolExecutor(cpu_count()) as threads:
        warnings.filterwarnings("ignore", module="PIL")  # about EXIF and sizes: what matters of it is in the remarks
        try:
            for found in threads.map(lambda chunk: [_check(source, entry, known) for entry in chunk], chunks):
                tell(len(found))
                yield from (checked for checked in found if checked)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _check(source: Source, entry: ObjectInfo, known: Mapping[str, ImageFile]) -> Checked | None:
    """Returns what is found out about a file; None where it does not even seem to be an image."""
    key, called_image = entry.key, PurePosixPath(entry.key).suffix.lower() in IMAGE_SUFFIXES
    if entry.size > MAX_BYTES:
        huge = f"huge: {entry.size / 1e6:,.0f} MB, at most {MAX_BYTES / 1e6:,.0f} MB are read"
        return Checked(key, key, problem=huge) if called_image else None
    if _UNWRITABLE.search(key):
        return Checked(key, key, problem="its name has characters that no S3 key can have; rename it")
    try:
        data = source.read(key)
    except ImageError as error:
        return Checked(key, key, problem=str(error)) if called_image else None
    return examine(key, data, known) if called_image or kind_of(data) else None


def make_plan(checked: Iterable[Checked], url: str, *, keep_copies: bool = False) -> Plan:
    """Returns what to publish of the files that were checked.

    Args:
        checked: In any order.
        url: The source, for messages.
        keep_copies: Images of train that valid or test has too stay in train.

    Raises:
        UserError: no images, or no classes that can be trained (see `build_index`).
    """
    found = sorted(checked, key=lambda item: item.key)
    remarks = [Remark("left out", item.key, item.problem) for item in found if item.problem]
    remarks += [Remark("mended", item.key, note) for item in found for note in item.notes if "large:" not in note]
    remarks += [Remark("noted", item.key, note) for item in found for note in item.notes if "large:" in note]
    sound = _distinct(_without_root([item for item in found if not item.problem]))
    index = _index(sound, url)
    placed = {key: name for name, split in index.splits.items() for key in split.keys}
    remarks += [
        Remark("left out", item.key, "not in a class folder of a split") for item in sound if item.name not in placed
    ]
    out, told = _copies(sound, placed, keep_copies)
    remarks += told
    kept = [item for item in sound if item.name in placed and item.name not in out]
    index = _index(kept, url)
    return Plan(sorted(kept, key=lambda item: item.name), remarks, _notes(index), index)


def _index(images: Sequence[Checked], url: str) -> Index:
    """Returns classes and splits, those only that the source has."""
    entries = (ObjectInfo(item.name, item.size, item.hash) for item in images)
    return build_index(entries, url, val_fraction=0, test_fraction=0, seed=0)


def _without_root(images: list[Checked]) -> list[Checked]:
    """Returns the images without the one folder that an archive often has around all: `dogImages/train/...`.

    An image that lies loose beside it or in it (a logo) does not keep it.
    """
    parts = [item.name.split("/") for item in images]
    tops = {part[0] for part in parts if len(part) > 1}
    if len(tops) != 1 or max(map(len, parts)) < 3 or (top := tops.pop()).lower() in _SPLIT_FOLDERS:
        return images
    return _without_root([replace(item, name=item.name.removeprefix(f"{top}/")) for item in images])


def _distinct(images: list[Checked]) -> list[Checked]:
    """Returns the images, each under a name of its own: with its suffix set right, one may have got another's."""
    right = [item for item in images if item.key.endswith(item.name)]
    taken = {item.name for item in right}
    renamed = []
    for item in images:
        if not item.key.endswith(item.name):
            path, number, name = PurePosixPath(item.name), 2, item.name
            while name in taken:
                name = str(path.with_stem(f"{path.stem}-{number}"))
                number += 1
            taken.add(name)
            renamed.append(replace(item, name=name))
    return right + renamed


def _copies(images: Sequence[Checked], placed: Mapping[str, str], keep: bool) -> tuple[set[str], list[Remark]]:
    """Returns the names of copies to leave out, and what is to tell of copies.

    An image that is trained on and tested on makes the test say too much. The held-out splits stay as they are, so
    that figures can still be compared with others' on the same data: of copies, the one in test stays, else the one
    in valid. Where a split is missing it will be drawn from train, so of copies within train one stays.
    """
    groups: dict[str, list[Checked]] = defaultdict(list)
    for item in images:
        if item.name in placed:
            groups[item.essence].append(item)
    drawn = len(set(placed.values())) < len(SPLITS)
    out: set[str] = set()
    remarks: list[Remark] = []
    for group in groups.values():
        ranked = sorted(group, key=lambda item: (-SPLITS.index(placed[item.name]), item.name))
        first = ranked[0]
        for item in ranked[1:]:
            here, there = placed[item.name], placed[first.name]
            other_class = _class(item) != _class(first)
            text = f"the same image as {first.name}" + (", but in another class" if other_class else "")
            leaks = here != there or (drawn and here == "train")
            if leaks and not keep:
                out.add(item.name)
            remarks.append(Remark("left out" if item.name in out else "noted", item.key, text))
    return out, remarks


def _class(item: Checked) -> str:
    """Returns the class of an image that lies in a split or in a class folder directly below the top."""
    parts = item.name.split("/")
    return parts[1] if parts[0].lower() in _SPLIT_FOLDERS and len(parts) > 2 else parts[0]


def _notes(index: Index) -> list[str]:
    """Returns what to know of the data set as a whole: splits that will be drawn, classes that a split lacks."""
    notes = [note.text for note in index.notes if "made from train" not in note.text]
    for name in SPLITS[1:]:
        labels = set(index.splits[name].labels.tolist())
        missing = [index.classes[number] for number in range(len(index.classes)) if number not in labels]
        if not labels:
            notes.append(f"there is no {name} split: a training draws one from train, the same each time")
        elif missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            notes.append(f"{name} has no image of {', '.join(missing[:5])}{more}")
    if len(index.classes) < 2:
        raise UserError(f"there is only one class, {index.classes[0]}; a classifier needs two or more")
    return notes


def counts(plan: Plan) -> str:
    """Returns `133 classes; images: 6680 train, 835 valid, 836 test`."""
    sizes = Counter({name: len(plan.index.splits[name]) for name in SPLITS})
    return f"{len(plan.index.classes)} classes; images: " + ", ".join(f"{sizes[name]} {name}" for name in SPLITS)
