"""What is published and what is left out, told from names and hashes alone."""

import pytest

from dogbreed.errors import UserError
from dogbreed.publishing.checks import Checked
from dogbreed.publishing.plan import counts, make_plan

SPLIT = ("train/a/1", "train/b/2", "valid/a/3", "valid/b/4", "test/a/5", "test/b/6")


def images(*keys, **essence_by_key):
    """Checked images; a key may hold `=X` to have the essence X, for copies."""
    found = []
    for key in keys:
        name, _, essence = key.partition("=")
        name = name if "." in name.rsplit("/")[-1] else f"{name}.jpg"
        found.append(Checked(name, name, 10, "m", name, essence or name, 8, 8))
    return found


def names(plan):
    return [item.name.removesuffix(".jpg") for item in plan.images]


def told(plan):
    return [(remark.kind, remark.key, remark.text) for remark in plan.remarks]


def test_a_sound_data_set_is_published_as_it_is():
    plan = make_plan(images(*SPLIT), "pets")
    assert names(plan) == sorted(SPLIT)
    assert told(plan) == plan.notes == []
    assert counts(plan) == "2 classes; images: 2 train, 2 val, 2 test"


@pytest.mark.parametrize("around", ["dogImages/", "a/b/"])
def test_folders_around_all_are_taken_off(around):
    assert names(make_plan(images(*(around + key for key in SPLIT)), "pets")) == sorted(SPLIT)


@pytest.mark.parametrize("around", ["dogImages", "a/b"])
def test_loose_images_beside_that_folder_or_in_it_are_left_out_and_named(around):
    loose = ("logo", f"{around}/logo", *([] if around == "dogImages" else ["a/logo"]))
    plan = make_plan(images(*(f"{around}/{key}" for key in SPLIT), *loose), "pets")
    assert names(plan) == sorted(SPLIT)
    assert sorted(told(plan)) == sorted(("left out", f"{key}.jpg", "not in a class folder of a split") for key in loose)
    plan = make_plan(images("pets/a/1", "pets/b/2", "pets/logo"), "pets")
    assert names(plan) == ["a/1", "b/2"]


def test_a_class_with_a_folder_in_it_is_not_taken_for_one_around_all():
    assert names(make_plan(images("a/1", "b/2", "b/more/3"), "pets"))[:2] == ["a/1", "b/2"]


def test_a_class_folder_is_not_taken_off():
    plan = make_plan(images("train/a/1", "train/b/2"), "pets")
    assert names(plan) == ["train/a/1", "train/b/2"]
    assert plan.notes == [f"there is no {name} split: a training draws one from train, the same each time"
                          for name in ("val", "test")]  # fmt: skip


@pytest.mark.parametrize(
    ("copies", "left_out"),
    [
        (("train/a/8=X", "test/a/9=X"), ["train/a/8.jpg"]),
        (("train/a/8=X", "valid/a/9=X"), ["train/a/8.jpg"]),
        (("valid/a/8=X", "test/a/9=X"), ["valid/a/8.jpg"]),
        (("train/a/7=X", "valid/a/8=X", "test/b/9=X"), ["train/a/7.jpg", "valid/a/8.jpg"]),
        (("train/a/8=X", "train/a/9=X"), []),
        (("test/a/8=X", "test/a/9=X"), []),
    ],
)
def test_of_copies_across_splits_the_one_held_out_stays(copies, left_out):
    found = images(*SPLIT, *copies)
    plan = make_plan(found, "pets")
    assert sorted(key for kind, key, _ in told(plan) if kind == "left out") == left_out
    assert len(plan.remarks) == len(copies) - 1
    assert "the same image as " in plan.remarks[0].text
    kept = make_plan(found, "pets", keep_copies=True)
    assert len(kept.images) == len(found)
    assert {remark.kind for remark in kept.remarks} == {"noted"}


def test_copies_in_one_heap_stay_once_because_splits_are_drawn_from_it():
    plan = make_plan(images("a/1=X", "a/2=X", "a/3", "b/4"), "pets")
    assert names(plan) == ["a/1", "a/3", "b/4"]


def test_one_image_in_two_classes_is_told():
    plan = make_plan(images(*SPLIT, "train/a/8=X", "train/b/9=X"), "pets")
    assert told(plan) == [("noted", "train/b/9.jpg", "the same image as train/a/8.jpg, but in another class")]


def test_bad_ones_and_loose_ones_are_left_out_and_named():
    bad = Checked("train/a/bad.jpg", "train/a/bad.jpg", problem="truncated")
    plan = make_plan([*images(*SPLIT, "train/loose"), bad], "pets")
    assert sorted(told(plan)) == [
        ("left out", "train/a/bad.jpg", "truncated"),
        ("left out", "train/loose.jpg", "not in a class folder of a split"),
    ]


def test_names_that_meet_after_mending_stay_apart():
    """A JPEG called 1.png beside 1.jpg, and another one called 1.gif."""
    others = [Checked(f"train/a/1.{kind}", "train/a/1.jpg", 10, "m", kind, kind, 8, 8) for kind in ("gif", "png")]
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
def test_what_can_not_be_trained_is_refused(keys, message):
    with pytest.raises(UserError, match=message) as refused:
        make_plan(images(*keys), "pets")
    assert "\n" not in str(refused.value)


def test_a_class_that_a_split_lacks_is_told():
    assert make_plan(images(*SPLIT[:-1]), "pets").notes == ["test has no image of b"]
