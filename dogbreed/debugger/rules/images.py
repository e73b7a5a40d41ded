"""Rules about images: what the network is fed, copies in two splits, near duplicates, files that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger.findings import Evidence, Outcome, insufficient, issue, ok
from dogbreed.debugger.rules.base import rule
from dogbreed.debugger.series import ImageHashes, ImageStatistics

Settings = Mapping[str, Any]

HASH_BITS = 256


@rule("CheckInputImages", aws_name="CheckInputImages", group="data", priority=2)
def check_input_images(
    input_images: ImageStatistics,
    *,
    threshold_mean: float = 0.2,
    threshold_samples: int = 500,
    min_std: float = 0.5,
    max_std: float = 2.0,
) -> Outcome:
    """Images reach the network with another normalisation than it expects.

    A dataset may well be darker or flatter than ImageNet: where darkest and brightest value are those of the
    backbone's own normalisation of 0..1, the deviation is the images' own and said, but no issue (OURS).

    Args:
        input_images: Statistics of the first images that were fed.
        threshold_mean: Largest absolute mean of a channel that is still right (DOC, CFG: 0.2).
        threshold_samples: Images that it takes (DOC, CFG: 500).
        min_std: Smallest standard deviation of a channel that is still right (OURS).
        max_std: Largest one (OURS).

    Source: DOC 2.1 (AWS looks at one channel and at an MXNet name).
    """
    count = input_images.num_images
    if count < threshold_samples:
        return insufficient(f"{count} images were looked at; it takes {threshold_samples}", datapoints=count)
    mean, std = input_images.mean, input_images.std
    evidence = [
        Evidence("mean of a channel", f"channel {i}", None, float(value), threshold_mean)
        for i, value in enumerate(mean)
        if not abs(value) <= threshold_mean
    ]
    evidence += [
        Evidence("standard deviation of a channel", f"channel {i}", None, float(v), min_std if v < min_std else max_std)
        for i, v in enumerate(std)
        if not min_std <= v <= max_std
    ]
    figures = f"mean {np.round(mean, 2).tolist()}, std {np.round(std, 2).tolist()}"
    if not evidence:
        return ok(f"images are normalised: {figures}", datapoints=count)
    if _spans_expected_range(input_images):
        text = f"normalised as the backbone expects; the images themselves differ: {figures}"
        return ok(text, datapoints=count, evidence=evidence)
    summary = f"images are not normalised as the network expects: {figures}, {_looks_like(input_images)}"
    return issue(summary, "++data.data_config=null", evidence, datapoints=count)


def _spans_expected_range(images: ImageStatistics) -> bool:
    """Returns whether the extremes are those of 0..1 images after the backbone's own normalisation."""
    if not images.expected_mean or not images.expected_std:
        return False
    mean, std = np.array(images.expected_mean), np.array(images.expected_std)
    low, high = float(((0 - mean) / std).min()), float(((1 - mean) / std).max())
    slack = 0.15 * (high - low)
    return abs(images.minimum - low) < slack and abs(images.maximum - high) < slack


def _looks_like(images: ImageStatistics) -> str:
    if images.maximum > 20:
        return "they look like 0..255"
    if images.minimum >= 0 and images.maximum <= 1.001:
        return "they look like 0..1"
    return f"values from {images.minimum:.2f} to {images.maximum:.2f}"


@rule("CorruptImages", group="data", priority=32)
def corrupt_images(images: ImageHashes, *, threshold_percent: float = 0.0) -> Outcome:
    """Some image files cannot be read.

    Args:
        images: Hashes and unreadable files.
        threshold_percent: Percent of unreadable files that is still right.

    Source: OURS.
    """
    total = max(images.num_images, sum(map(len, images.hashes.values())) + len(images.bad))
    if not total:
        return insufficient("no image was looked at")
    percent = 100 * len(images.bad) / total
    if percent > threshold_percent:
        evidence = [Evidence(reason, name, None, percent, threshold_percent) for name, reason in images.bad.items()]
        summary = f"{len(images.bad)} of {total} images cannot be read"
        return issue(summary, "data.bad_images=raise", evidence, datapoints=total)
    return ok(f"{total} images, {len(images.bad)} of them unreadable", datapoints=total)


def _table(names: list[str], hashes: Mapping[str, int]) -> NDArray[np.uint64]:
    """Returns (N, 4) words of the 256-bit hashes."""
    packed = b"".join(hashes[name].to_bytes(HASH_BITS // 8, "little") for name in names)
    return np.frombuffer(packed, dtype="<u8").reshape(-1, HASH_BITS // 64).astype(np.uint64)


_BITS = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)


def close_pairs(
    first: Mapping[str, int], second: Mapping[str, int] | None, max_distance: int
) -> list[tuple[str, str, int]]:
    """Returns (name, name, Hamming distance) for each image of `second` that has a close one in `first`.

    Close are images whose hashes differ in at most `max_distance` bits; the closest is named. With `second` None:
    each image of `first` that has a close one before it. Compared by brute force in blocks: 6000 images with
    themselves take about 2 s on one core.
    """
    names_a, names_b = list(first), list(first if second is None else second)
    if not names_a or not names_b:
        return []
    a, b = _table(names_a, first), _table(names_b, first if second is None else second)
    closest, partner = np.full(len(b), HASH_BITS + 1), np.zeros(len(b), dtype=np.int64)
    for start in range(0, len(a), 256):
        mixed = a[start : start + 256, None, :] ^ b[None, :, :]
        # The first 64 bits rule out nearly every pair before the whole hash is counted.
        near = _ones(mixed[..., :1]) <= max_distance
        if second is None:
            near = np.triu(near, start + 1)
        distances = np.full(near.shape, HASH_BITS + 1)
        distances[near] = _ones(mixed[near])
        nearest = distances.argmin(axis=0)
        found = distances[nearest, np.arange(len(b))]
        closer = found < closest
        closest[closer], partner[closer] = found[closer], start + nearest[closer]
    return [(names_a[partner[j]], names_b[j], int(closest[j])) for j in np.flatnonzero(closest <= max_distance)]


def _ones(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Returns the number of bits that are 1 in each row of (..., W) words."""
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape[:-1], 8 * words.shape[-1])
    return _BITS[octets].sum(axis=-1, dtype=np.int64)


def _telling(images: ImageHashes, max_distance: int) -> tuple[dict[str, dict[str, int]], str]:
    """Returns the hashes of each split that are not those of a flat image, and what to say of those left out.

    A hash as close to that of a flat image (all bits equal) as to a copy's would be a copy of every such image.
    """
    telling = {
        split: {n: h for n, h in hashes.items() if max_distance < bin(h).count("1") < HASH_BITS - max_distance}
        for split, hashes in images.hashes.items()
    }
    count = sum(len(hashes) - len(telling[split]) for split, hashes in images.hashes.items())
    return telling, f"; {count} are too flat to be compared" if count else ""


def _hashed(images: ImageHashes) -> tuple[int, str]:
    count = sum(map(len, images.hashes.values()))
    part = f" ({count} of {images.num_images} images were hashed)" if count < images.num_images else ""
    return count, part


@rule("TrainValOverlap", group="data", priority=4)
def train_val_overlap(images: ImageHashes, *, max_distance: int = 12) -> Outcome:
    """The same image is in the training and in the validation or test split, so the metrics flatter.

    Args:
        images: 256-bit difference hashes of each split's images.
        max_distance: Bits in which two hashes of the same image may differ (0: the same pixels, scaled to 17 x 16).

    Source: OURS.
    """
    count, part = _hashed(images)
    hashes, flat = _telling(images, max_distance)
    train = hashes.pop("train", {})
    others = {split: found for split, found in hashes.items() if found}
    part += flat
    if not train or not others:
        return insufficient(f"hashes of the training split and of another one are needed{part}", datapoints=count)
    evidence = [
        Evidence(f"in train and in {split} (bits that differ): {theirs}", mine, None, distance, max_distance)
        for split, found in others.items()
        for mine, theirs, distance in close_pairs(train, found, max_distance)
    ]
    if evidence:
        summary = f"{len(evidence)} images of other splits are in the training split too{part}"
        return issue(summary, "+debugger.rules.TrainValOverlap.max_distance=0", evidence, datapoints=count)
    return ok(f"no image is in two splits{part}", datapoints=count)


@rule("NearDuplicates", group="data", priority=46, caused_by=("TrainValOverlap",))
def near_duplicates(images: ImageHashes, *, max_distance: int = 12, threshold_percent: float = 1.0) -> Outcome:
    """Many training images are nearly the same image.

    Args:
        images: 256-bit difference hashes of each split's images.
        max_distance: Bits in which two hashes of nearly the same image may differ.
        threshold_percent: Percent of training images with a double that is still right.

    Source: OURS.
    """
    count, part = _hashed(images)
    hashes, flat = _telling(ImageHashes({"train": images.hashes.get("train", {})}), max_distance)
    train = hashes["train"]
    part += flat
    if len(train) < 2:
        return insufficient(f"hashes of two training images at least are needed{part}", datapoints=count)
    pairs = close_pairs(train, None, max_distance)
    percent = 100 * len(pairs) / len(train)
    evidence = [Evidence(f"nearly the same as {b} (bits)", a, None, d, max_distance) for a, b, d in pairs]
    if percent > threshold_percent:
        summary = f"{percent:.1f} % of the training images have a double{part}"
        return issue(summary, "+debugger.rules.NearDuplicates.max_distance=0", evidence, datapoints=len(train))
    return ok(f"{len(pairs)} near duplicates among {len(train)}{part}", datapoints=len(train), evidence=evidence)
