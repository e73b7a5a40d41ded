import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.data.index import Index, build_index
from dogbreed.errors import UserError
from dogbreed.storage.base import ObjectInfo


def index(*keys: str, val_fraction: float = 0.1, test_fraction: float = 0.1) -> Index:
    entries = [ObjectInfo(key, 100, "e") for key in keys]
    return build_index(entries, "DATA", val_fraction=val_fraction, test_fraction=test_fraction, seed=0)


def texts(found: Index, level: int) -> str:
    return "\n".join(note.text for note in found.notes if note.level == level)


@pytest.mark.parametrize("valid", ["valid", "val", "validation", "Valid"])
def test_split_folders_become_splits(valid: str) -> None:
    found = index("train/b/1.jpg", "train/a/2.JPG", f"{valid}/a/3.png", "test/b/deep/4.webp")
    assert found.classes == ["a", "b"]
    assert {name: split.keys for name, split in found.splits.items()} == {
        "train": ["train/a/2.JPG", "train/b/1.jpg"],
        "val": [f"{valid}/a/3.png"],
        "test": ["test/b/deep/4.webp"],
    }
    assert found.splits["train"].labels.tolist() == [0, 1]
    assert found.splits["test"].labels.tolist() == [1]
    assert found.splits["test"].sizes.tolist() == [100]
    assert not found.notes


def test_missing_splits_are_drawn_from_train_and_logged() -> None:
    keys = [f"{folder}/{number}.jpg" for folder in ("pug", "husky") for number in range(20)]
    found = index(*keys)
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 32, "val": 4, "test": 4}
    assert sorted(key for split in found.splits.values() for key in split.keys) == sorted(keys)
    assert "no val split: made from train, 4 of 40 images (10% per class, seed 0)" in texts(found, logging.INFO)
    assert "no test split" in texts(found, logging.INFO)


def test_only_missing_splits_are_drawn() -> None:
    keys = [f"train/pug/{number}.jpg" for number in range(20)]
    found = index(*keys, "test/pug/x.jpg", "valid/")
    assert len(found.splits["val"]) == 2
    assert found.splits["test"].keys == ["test/pug/x.jpg"]


def test_order_of_the_listing_does_not_matter() -> None:
    keys = [f"{folder}/{number}.jpg" for folder in "abc" for number in range(9)]
    one, other = index(*keys), index(*reversed(keys))
    assert one.fingerprint == other.fingerprint
    assert {n: s.keys for n, s in one.splits.items()} == {n: s.keys for n, s in other.splits.items()}


def test_fingerprint_follows_names_sizes_and_etags() -> None:
    entries = [ObjectInfo("a/1.jpg", 5, "x"), ObjectInfo("a/2.jpg", 5, "x"), ObjectInfo("notes.txt", 5, "x")]
    options = {"val_fraction": 0.1, "test_fraction": 0.1, "seed": 0}

    def fingerprint(*changed: ObjectInfo) -> str:
        return build_index(changed, "DATA", **options).fingerprint

    same = fingerprint(*entries)
    assert same == fingerprint(*entries[:2], ObjectInfo("notes.txt", 9, "y"))
    for other in (ObjectInfo("a/3.jpg", 5, "x"), ObjectInfo("a/2.jpg", 6, "x"), ObjectInfo("a/2.jpg", 5, "y")):
        assert same != fingerprint(entries[0], other)
    assert same != fingerprint(entries[0])


def test_other_files_are_skipped_and_counted_once() -> None:
    found = index("train/a/1.jpg", "train/a/notes.txt", "train/a/x.csv", "README", "train/a/b.txt")
    assert texts(found, logging.INFO).startswith("skipped 4 files that are not images (2 .txt")
    assert found.splits["train"].keys == ["train/a/1.jpg"]


def test_hidden_desktop_files_are_ignored() -> None:
    found = index(
        *(f"a/{number}.jpg" for number in range(9)),
        "a/._1.jpg",
        "__MACOSX/a/1.jpg",
        ".ipynb_checkpoints/1.jpg",
        "a/.DS_Store",
    )
    assert found.classes == ["a"]
    assert not texts(found, logging.WARNING)


@pytest.mark.parametrize("empty", ["train/poodle/", "train/poodle/readme.txt", "train/poodle/deeper/"])
def test_class_folder_without_images_is_skipped_and_named(empty: str) -> None:
    found = index("train/a/1.jpg", empty)
    assert found.classes == ["a"]
    assert "skipped class folders without images: poodle" in texts(found, logging.WARNING)


def test_images_outside_class_folders_are_named() -> None:
    assert "skipped 2 images outside train/CLASS/" in texts(
        index("train/a/1.jpg", "train/2.jpg", "3.jpg"), logging.WARNING
    )
    assert "skipped 1 image outside a class folder" in texts(index("a/1.jpg", "3.jpg"), logging.WARNING)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ((), "'DATA': no images; expected below it: train/CLASS/"),
        (("readme.txt",), "no images"),
        (("1.jpg", "2.jpg"), "2 images, but none in a class folder of train"),
        (("valid/a/1.jpg",), "1 image, but none in a class folder of train"),
        (("train/a/1.jpg", "valid/a/1.jpg", "val/a/1.jpg"), "'val' and 'valid', which mean the same split"),
        (
            ("train/a/1.jpg", "test/b/1.jpg"),
            "test has classes that train does not have: b; add images of them to train",
        ),
        (("train/a/1.jpg", "train/b/", "valid/b/1.jpg"), "val has classes that train does not have: b"),
        (("Training/a/1.jpg", "Testing/a/1.jpg"), "'Testing' and 'Training' looks like a split: rename it to train"),
        (("seg_train/a/1.jpg", "seg_test/a/1.jpg"), "looks like a split"),
        (("training_set/a/1.jpg", "test/a/1.jpg"), "folder 'training_set' looks like a split"),
        (
            ("Images/a/1.jpg", "Images/b/1.jpg"),
            "all images are in 'Images', with the folders a, b: type data.url=DATA/Images",
        ),
        (("x/train/a/1.jpg", "x/test/a/1.jpg"), "type data.url=DATA/x"),
    ],
)
def test_unusable_listing_is_a_one_line_error(keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as caught:
        index(*keys)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.dictionaries(st.text("abc01_.-", min_size=1, max_size=5).filter(lambda s: s[0] != "."), st.integers(1, 9)))
def test_classes_are_the_sorted_folders(folders: dict[str, int]) -> None:
    keys = [f"{folder}/{number}.jpg" for folder, count in folders.items() for number in range(count)]
    if keys:
        assert index(*keys).classes == sorted(folders)


def test_classes_named_like_splits_among_others_are_classes() -> None:
    assert index("training/1.jpg", "match/1.jpg").classes == ["match", "training"]


@pytest.mark.parametrize("litter", ["@eaDir", "$RECYCLE.BIN", "System Volume Information", "__MACOSX"])
def test_folders_of_tools_are_ignored(litter: str) -> None:
    assert index("a/1.jpg", "b/1.jpg", f"{litter}/1.jpg", f"a/{litter}/1.jpg").classes == ["a", "b"]


def test_split_that_stays_empty_is_a_warning() -> None:
    assert "test is empty: no class of train has enough images" in texts(index("a/1.jpg", "b/1.jpg"), logging.WARNING)
