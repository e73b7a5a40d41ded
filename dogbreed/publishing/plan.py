"""Decides which images are published under which key, and which are skipped. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import NamedTuple

from dogbreed.data.index import SPLITS, Index, build_index
from dogbreed.errors import UserError
from dogbreed.publishing.checks import CheckedImage
from dogbreed.storage.base import ObjectInfo

_SPLIT_FOLDERS = ("train", "valid", "val", "validation", "test")

SKIPPED, REPAIRED, NOTE = "skipped", "repaired", "note"


class Remark(NamedTuple):
    """A remark about one file of the source."""

    status: str
    """`skipped`, `repaired` or `note`."""
    key: str
    """Path below the source."""
    text: str


@dataclass(frozen=True)
class Plan:
    """The image set to publish."""

    images: list[CheckedImage]
    """Sorted by name."""
    remarks: list[Remark]
    """Skipped files first, then repaired ones, then notes."""
    notes: list[str]
    """About the image set."""
    index: Index
    """Classes and splits, as a training finds them."""


def make_plan(checked: Iterable[CheckedImage], url: str, *, keep_copies: bool = False) -> Plan:
    """Returns the plan to publish the checked images.

    Args:
        checked: Images in any order.
        url: The source, for error messages.
        keep_copies: Keep images of train that are also in valid or test.

    Raises:
        UserError: There are no images, or no classes that can be trained (see `build_index`).
    """
    files = sorted(checked, key=lambda image: image.key)
    remarks = [Remark(SKIPPED, image.key, image.problem) for image in files if image.problem]
    valid = [image for image in files if not image.problem]
    remarks += [Remark(REPAIRED, image.key, text) for image in valid for text in image.repairs]
    remarks += [Remark(NOTE, image.key, image.note) for image in valid if image.note]
    images = _with_unique_names(_without_common_folder(valid))
    split_of = {key: name for name, split in _index(images, url).splits.items() for key in split.keys}
    remarks += [
        Remark(SKIPPED, image.key, "not in a class folder of a split") for image in images if image.name not in split_of
    ]
    images = [image for image in images if image.name in split_of]
    skipped, copies = _find_copies(images, split_of, keep_copies)
    remarks = sorted(remarks + copies, key=lambda remark: (SKIPPED, REPAIRED, NOTE).index(remark.status))
    kept = sorted((image for image in images if image.name not in skipped), key=lambda image: image.name)
    index = _index(kept, url)
    return Plan(kept, remarks, _notes(index), index)


def _index(images: Sequence[CheckedImage], url: str) -> Index:
    """Returns classes and splits; missing splits are not drawn from train."""
    infos = (ObjectInfo(image.name, image.size, image.hash) for image in images)
    return build_index(infos, url, val_fraction=0, test_fraction=0, seed=0)


def _without_common_folder(images: list[CheckedImage]) -> list[CheckedImage]:
    """Removes the top folder that an archive often has (`dogImages/train/...`), even with stray images next to it."""
    paths = [image.name.split("/") for image in images]
    tops = {path[0] for path in paths if len(path) > 1}
    if len(tops) != 1 or max(map(len, paths)) < 3 or (top := tops.pop()).lower() in _SPLIT_FOLDERS:
        return images
    return _without_common_folder([replace(image, name=image.name.removeprefix(f"{top}/")) for image in images])


def _with_unique_names(images: list[CheckedImage]) -> list[CheckedImage]:
    """Numbers repaired names that equal the name of another image."""
    unchanged = [image for image in images if image.key.endswith(image.name)]
    taken = {image.name for image in unchanged}
    renamed = []
    for image in images:
        if not image.key.endswith(image.name):
            path, number, name = PurePosixPath(image.name), 2, image.name
            while name in taken:
                name = str(path.with_stem(f"{path.stem}-{number}"))
                number += 1
            taken.add(name)
            renamed.append(replace(image, name=name))
    return unchanged + renamed


def _find_copies(
    images: Sequence[CheckedImage], split_of: Mapping[str, str], keep: bool
) -> tuple[set[str], list[Remark]]:
    """Returns the names of copies to skip, and remarks about copies.

    Duplicates between splits inflate test accuracy. The held-out splits stay complete, so that results remain
    comparable: the copy in test is kept, else the one in valid. If a split is missing, trainings draw it from train,
    so duplicates within train are skipped as well.
    """
    groups: dict[str, list[CheckedImage]] = defaultdict(list)
    for image in images:
        groups[image.hash_without_metadata].append(image)
    draws_splits = len(set(split_of.values())) < len(SPLITS)
    skipped: set[str] = set()
    remarks: list[Remark] = []
    for group in groups.values():
        first, *copies = sorted(group, key=lambda image: (-SPLITS.index(split_of[image.name]), image.name))
        for copy in copies:
            split = split_of[copy.name]
            leaks = split != split_of[first.name] or (draws_splits and split == "train")
            if leaks and not keep:
                skipped.add(copy.name)
            text = f"the same image as {first.name}"
            text += ", but in another class" if _class(copy) != _class(first) else ""
            remarks.append(Remark(SKIPPED if copy.name in skipped else NOTE, copy.key, text))
    return skipped, remarks


def _class(image: CheckedImage) -> str:
    parts = image.name.split("/")
    return parts[1] if parts[0].lower() in _SPLIT_FOLDERS and len(parts) > 2 else parts[0]


def _notes(index: Index) -> list[str]:
    """Returns notes about missing splits and classes.

    Raises:
        UserError: There is only one class.
    """
    notes = [note.text for note in index.notes if "made from train" not in note.text]
    for name in SPLITS[1:]:
        labels = set(index.splits[name].labels.tolist())
        missing = [class_name for label, class_name in enumerate(index.classes) if label not in labels]
        if not labels:
            notes.append(f"there is no {name} split: a training draws one from train, the same each time")
        elif missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            notes.append(f"{name} has no image of {', '.join(missing[:5])}{more}")
    if len(index.classes) < 2:
        raise UserError(f"there is only one class, {index.classes[0]}; a classifier needs two or more")
    return notes


def counts(plan: Plan) -> str:
    """Returns `133 classes; images: 6680 train, 835 val, 836 test`."""
    sizes = ", ".join(f"{len(plan.index.splits[name])} {name}" for name in SPLITS)
    return f"{len(plan.index.classes)} classes; images: {sizes}"
