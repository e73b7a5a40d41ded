from __future__ import annotations

import numpy as np
import pytest

from dogbreed.debugger.findings import Status
from dogbreed.debugger.rules.images import (
    check_input_images,
    close_pairs,
    corrupt_images,
    near_duplicates,
    train_val_overlap,
)
from dogbreed.debugger.series import ImageHashes, ImageStatistics

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def statistics(mean, std, low, high, count=600) -> ImageStatistics:
    return ImageStatistics(count, np.array(mean), np.array(std), low, high, MEAN, STD)


def test_normalised_images_are_ok():
    assert check_input_images(statistics([0.05, 0, -0.1], [1, 1, 1], -2.1, 2.6)).status is Status.OK


@pytest.mark.parametrize(("scale", "word"), [(1, "0..1"), (255, "0..255")])
def test_unnormalised_images_fire_and_are_recognised(scale, word):
    outcome = check_input_images(statistics([0.45 * scale] * 3, [0.25 * scale] * 3, 0, scale))
    assert outcome.status is Status.ISSUE
    assert word in outcome.summary


def test_dark_but_normalised_images_are_ok():
    outcome = check_input_images(statistics([-0.8] * 3, [0.6] * 3, -2.11, 2.6))
    assert outcome.status is Status.OK
    assert outcome.evidence


def test_few_images_and_value_at_threshold_do_not_fire():
    assert check_input_images(statistics([9] * 3, [1] * 3, 0, 1, count=499)).status is Status.INSUFFICIENT_DATA
    assert check_input_images(statistics([0.2] * 3, [2.0] * 3, 0, 1)).status is Status.OK


def random_hashes(prefix: str, count: int, seed: int) -> dict[str, int]:
    random = np.random.default_rng(seed)
    return {f"{prefix}{i}": int.from_bytes(random.bytes(32), "little") for i in range(count)}


def test_same_image_in_two_splits_is_named():
    train, val = random_hashes("t", 600, 0), random_hashes("v", 50, 1)
    assert train_val_overlap(ImageHashes({"train": train, "val": val})).status is Status.OK
    val["copy.jpg"] = train["t311"] ^ 0b111  # three bits differ
    outcome = train_val_overlap(ImageHashes({"train": train, "val": val}))
    assert outcome.status is Status.ISSUE
    assert (outcome.evidence[0].tensor, outcome.evidence[0].value) == ("t311", 3)
    assert "copy.jpg" in outcome.evidence[0].text


def test_overlap_needs_two_splits():
    assert train_val_overlap(ImageHashes({"train": random_hashes("t", 5, 0)})).status is Status.INSUFFICIENT_DATA


def test_pairs_within_a_split_are_listed_once():
    hashes = random_hashes("t", 300, 0)
    hashes["double"] = hashes["t0"]
    assert close_pairs(hashes, None, 12) == [("t0", "double", 0)]


def test_copies_are_counted_once_in_many_pairs():
    [same] = random_hashes("", 1, 0).values()
    splits = {"train": 300, "val": 40, "test": 5}
    images = ImageHashes({s: {f"{s}/{i}": same ^ (i == 7) for i in range(n)} for s, n in splits.items()})
    outcome = train_val_overlap(images)
    assert outcome.violations == 45
    assert {item.value for item in outcome.evidence} == {0}  # the closest is named
    outcome = near_duplicates(images)
    assert (outcome.status, outcome.violations) == (Status.ISSUE, 299)


def test_flat_images_are_not_duplicates():
    white, shaded, nearly = 0, 2**256 - 1, 0b1011 << 100
    flat = {"white": white, "shaded": shaded, "nearly": nearly}
    train, val = random_hashes("t", 20, 0), random_hashes("v", 5, 1)
    images = ImageHashes({"train": {**train, **flat}, "val": {**val, **flat}})
    outcome = train_val_overlap(images)
    assert (outcome.status, outcome.datapoints) == (Status.OK, 31)
    assert "6 images without detail" in outcome.summary
    outcome = near_duplicates(images)
    assert (outcome.status, outcome.datapoints) == (Status.OK, 20)
    assert "3 images without detail" in outcome.summary
    outcome = train_val_overlap(ImageHashes({"train": flat, "val": flat}))
    assert outcome.status is Status.INSUFFICIENT_DATA


def test_near_duplicates_count_against_a_share():
    hashes = random_hashes("t", 300, 0)
    hashes["double"] = hashes["t0"]
    assert near_duplicates(ImageHashes({"train": hashes})).status is Status.OK
    assert near_duplicates(ImageHashes({"train": hashes}), threshold_percent=0.1).status is Status.ISSUE


def test_sampled_share_of_images_is_reported():
    images = ImageHashes({"train": random_hashes("t", 30, 0), "val": random_hashes("v", 3, 1)}, {}, 1000)
    assert "33 of 1000" in train_val_overlap(images).summary


def test_corrupt_images_fire():
    hashes = {"train": random_hashes("t", 9, 0)}
    assert corrupt_images(ImageHashes(hashes, {"a.jpg": "truncated"}, 10)).evidence[0].tensor == "a.jpg"
    assert corrupt_images(ImageHashes(hashes, {}, 9)).status is Status.OK
    assert corrupt_images(ImageHashes({}, {}, 0)).status is Status.INSUFFICIENT_DATA
