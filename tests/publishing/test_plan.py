"""Plans from names and hashes."""

import pytest

from dogbreed.errors import UserError
from dogbreed.publishing.checks import CheckedImage
from dogbreed.publishing.plan import counts, make_plan

SPLIT = ("train/a/1", "train/b/2", "valid/a/3", "valid/b/4", "test/a/5", "test/b/6")


def images(*keys):
    """Returns checked images; keys that end in the same `=X` are copies."""
    found = []
    for key in keys:
        name, _, copy_of = key.partition("=")
        name = name if "." in name.rsplit("/")[-1] else f"{name}.jpg"
        found.append(CheckedImage(name, name, 10, "m", name, copy_of or name, 8, 8))
    return found


def names(plan):
    return [item.name.removesuffix(".jpg") for item in plan.images]


def remarks_of(plan):
    return [(remark.status, remark.key, remark.text) for remark in plan.remarks]


def test_plan_valid_image_set_is_unchanged():
    plan = make_plan(images(*SPLIT), "pets")
    assert names(plan) == sorted(SPLIT)
    assert remarks_of(plan) == plan.notes == []
    assert counts(plan) == "2 classes; images: 2 train, 2 val, 2 test"


@pytest.mark.parametrize("around", ["dogImages/", "a/b/"])
def test_plan_removes_common_top_folders(around):
    assert names(make_plan(images(*(around + key for key in SPLIT)), "pets")) == sorted(SPLIT)


@pytest.mark.parametrize("around", ["dogImages", "a/b"])
def test_plan_skips_stray_images_next_to_top_folder(around):
    loose = ("logo", f"{around}/logo", *([] if around == "dogImages" else ["a/logo"]))
    plan = make_plan(images(*(f"{around}/{key}" for key in SPLIT), *loose), "pets")
    assert names(plan) == sorted(SPLIT)
    assert sorted(remarks_of(plan)) == sorted(
        ("skipped", f"{key}.jpg", "not in a class folder of a split") for key in loose
    )
    plan = make_plan(images("pets/a/1", "pets/b/2", "pets/logo"), "pets")
    assert names(plan) == ["a/1", "b/2"]


def test_plan_keeps_class_folder_with_subfolder():
    assert names(make_plan(images("a/1", "b/2", "b/more/3"), "pets"))[:2] == ["a/1", "b/2"]


def test_plan_keeps_split_folder_and_notes_missing_ones():
    plan = make_plan(images("train/a/1", "train/b/2"), "pets")
    assert names(plan) == ["train/a/1", "train/b/2"]
    assert plan.notes == [f"there is no {name} split: a training draws one from train, the same each time"
                          for name in ("val", "test")]  # fmt: skip


@pytest.mark.parametrize(
    ("copies", "skipped"),
    [
        (("train/a/8=X", "test/a/9=X"), ["train/a/8.jpg"]),
        (("train/a/8=X", "valid/a/9=X"), ["train/a/8.jpg"]),
        (("valid/a/8=X", "test/a/9=X"), ["valid/a/8.jpg"]),
        (("train/a/7=X", "valid/a/8=X", "test/b/9=X"), ["train/a/7.jpg", "valid/a/8.jpg"]),
        (("train/a/8=X", "train/a/9=X"), []),
        (("test/a/8=X", "test/a/9=X"), []),
    ],
)
def test_plan_of_copies_keeps_the_held_out_one(copies, skipped):
    found = images(*SPLIT, *copies)
    plan = make_plan(found, "pets")
    assert sorted(key for kind, key, _ in remarks_of(plan) if kind == "skipped") == skipped
    assert len(plan.remarks) == len(copies) - 1
    assert "the same image as " in plan.remarks[0].text
    kept = make_plan(found, "pets", keep_copies=True)
    assert len(kept.images) == len(found)
    assert {remark.status for remark in kept.remarks} == {"note"}


def test_plan_without_splits_keeps_one_copy():
    plan = make_plan(images("a/1=X", "a/2=X", "a/3", "b/4"), "pets")
    assert names(plan) == ["a/1", "a/3", "b/4"]


def test_plan_copy_in_another_class_has_a_note():
    plan = make_plan(images(*SPLIT, "train/a/8=X", "train/b/9=X"), "pets")
    assert remarks_of(plan) == [("note", "train/b/9.jpg", "the same image as train/a/8.jpg, but in another class")]


def test_plan_lists_bad_and_stray_images_as_skipped():
    bad = CheckedImage("train/a/bad.jpg", "train/a/bad.jpg", problem="truncated")
    plan = make_plan([*images(*SPLIT, "train/loose"), bad], "pets")
    assert sorted(remarks_of(plan)) == [
        ("skipped", "train/a/bad.jpg", "truncated"),
        ("skipped", "train/loose.jpg", "not in a class folder of a split"),
    ]


def test_plan_numbers_equal_repaired_names():
    """A JPEG called 1.png next to 1.jpg, and another one called 1.gif."""
    others = [CheckedImage(f"train/a/1.{kind}", "train/a/1.jpg", 10, "m", kind, kind, 8, 8) for kind in ("gif", "png")]
    plan = make_plan([*others, *images(*SPLIT)], "pets")
    named = {item.key: item.name for item in plan.images if item.name.startswith("train/a")}
    assert named == {
        "train/a/1.jpg": "train/a/1.jpg",
        "train/a/1.gif": "train/a/1-2.jpg",
        "train/a/1.png": "train/a/1-3.jpg",
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ((), "no images; expected below it: train/CLASS/"),
        (("1", "2"), "none in a class folder"),
        ((*SPLIT, "valid/c/7"), "val has classes that train does not have: c"),
        (("train/a/1", "valid/a/2"), "there is only one class, a; a classifier needs two or more"),
        ((*SPLIT, "val/a/7"), "'val' and 'valid', which mean the same split"),
    ],
)
def test_plan_without_trainable_classes_is_an_error(keys, message):
    with pytest.raises(UserError, match=message) as error:
        make_plan(images(*keys), "pets")
    assert "\n" not in str(error.value)


def test_plan_notes_class_missing_in_split():
    assert make_plan(images(*SPLIT[:-1]), "pets").notes == ["test has no image of b"]
