"""Rules about images: normalization, copies in two splits, near duplicates, unreadable files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger.findings import Evidence, Outcome, Suggestion, counted, insufficient, issue, ok
from dogbreed.debugger.rules.base import rule
from dogbreed.debugger.series import ImageHashes, ImageStatistics

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
    """Detects images that are not normalized as the network expects.

    A data set may be darker or flatter than ImageNet: if the darkest and brightest values are those of the
    backbone's own normalization, the deviation is in the images and no issue.

    Args:
        input_images: Statistics of the first images that the network was fed.
        threshold_mean: Largest absolute mean of a channel. AWS: 0.2.
        threshold_samples: Images needed. AWS: 500.
        min_std: Smallest standard deviation of a channel.
        max_std: Largest standard deviation of a channel.

    Statuses:
        issue: A channel is outside the limits, and the range of values is not the expected one.
        insufficient_data: Fewer than `threshold_samples` images.

    Source: AWS, which checks a single channel; the standard deviation and the range are additions.
    """
    count = input_images.num_images
    if count < threshold_samples:
        return insufficient(f"{counted(count, 'image')}, {threshold_samples} needed", datapoints=count)
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
        return ok(f"images are normalized: {figures}", datapoints=count)
    if _has_expected_range(input_images):
        text = f"images are normalized as the backbone expects, but differ from its training images: {figures}"
        return ok(text, datapoints=count, evidence=evidence)
    summary = f"images are not normalized as the network expects: {figures}, {_describe_range(input_images)}"
    expected = f" (mean {list(input_images.expected_mean)}, std {list(input_images.expected_std)})"
    suggestion = f"normalize images as the backbone expects{expected if input_images.expected_mean else ''}"
    return issue(summary, suggestion, evidence, datapoints=count)


def _has_expected_range(images: ImageStatistics) -> bool:
    """Returns whether the extremes are those of 0..1 images after the backbone's own normalization."""
    if not images.expected_mean or not images.expected_std:
        return False
    mean, std = np.array(images.expected_mean), np.array(images.expected_std)
    low, high = float(((0 - mean) / std).min()), float(((1 - mean) / std).max())
    slack = 0.15 * (high - low)
    return abs(images.minimum - low) < slack and abs(images.maximum - high) < slack


def _describe_range(images: ImageStatistics) -> str:
    if images.maximum > 20:
        return "they look like 0..255"
    if images.minimum >= 0 and images.maximum <= 1.001:
        return "they look like 0..1"
    return f"values from {images.minimum:.2f} to {images.maximum:.2f}"


@rule("CorruptImages", group="data", priority=32)
def corrupt_images(images: ImageHashes, *, threshold_percent: float = 0.0) -> Outcome:
    """Detects image files that cannot be read.

    Args:
        images: Hashes and unreadable files.
        threshold_percent: Percent of unreadable files above which it fires.

    Statuses:
        issue: Too many files cannot be read.
        insufficient_data: No image was checked.

    Source: an addition to AWS's rules.
    """
    total = max(images.num_images, sum(map(len, images.hashes.values())) + len(images.bad))
    if not total:
        return insufficient("no image was checked")
    percent = 100 * len(images.bad) / total
    if percent > threshold_percent:
        evidence = [Evidence(reason, name, None, percent, threshold_percent) for name, reason in images.bad.items()]
        summary = f"{len(images.bad)} of {total} images cannot be read"
        return issue(summary, "replace or remove these files", evidence, datapoints=total)
    return ok(f"{counted(total, 'image')}, {len(images.bad)} of them unreadable", datapoints=total)


def _as_words(names: list[str], hashes: Mapping[str, int]) -> NDArray[np.uint64]:
    """Returns (N, 4) words of the 256-bit hashes."""
    packed = b"".join(hashes[name].to_bytes(HASH_BITS // 8, "little") for name in names)
    return np.frombuffer(packed, dtype="<u8").reshape(-1, HASH_BITS // 64).astype(np.uint64)


_ONES = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


def _count_ones(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Returns the number of bits that are 1 in each row of (..., W) words."""
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape[:-1], 8 * words.shape[-1])
    return _ONES[octets].sum(axis=-1, dtype=np.int64)


def close_pairs(
    first: Mapping[str, int], second: Mapping[str, int] | None, max_distance: int
) -> list[tuple[str, str, int]]:
    """Returns (name in `first`, name in `second`, Hamming distance) of each image of `second` with a close one.

    Compares all pairs in blocks.

    Args:
        first: Name to 256-bit hash.
        second: The same; None compares each image of `first` with those before it.
        max_distance: Bits in which the hashes of close images differ at most; only the closest image is returned.
    """
    names_a, names_b = list(first), list(first if second is None else second)
    if not names_a or not names_b:
        return []
    a, b = _as_words(names_a, first), _as_words(names_b, first if second is None else second)
    closest, partner = np.full(len(b), HASH_BITS + 1), np.zeros(len(b), dtype=np.int64)
    for start in range(0, len(a), 256):
        mixed = a[start : start + 256, None, :] ^ b[None, :, :]
        # The first 64 bits rule out nearly every pair before the whole hash is counted.
        near = _count_ones(mixed[..., :1]) <= max_distance
        if second is None:
            near = np.triu(near, start + 1)
        distances = np.full(near.shape, HASH_BITS + 1)
        distances[near] = _count_ones(mixed[near])
        nearest = distances.argmin(axis=0)
        distance = distances[nearest, np.arange(len(b))]
        closer = distance < closest
        closest[closer], partner[closer] = distance[closer], start + nearest[closer]
    return [(names_a[partner[j]], names_b[j], int(closest[j])) for j in np.flatnonzero(closest <= max_distance)]


def _distinctive(images: ImageHashes, max_distance: int) -> tuple[dict[str, dict[str, int]], str]:
    """Returns (hashes by split without those of flat images, text about what was not compared).

    A hash that is as close to that of a flat image (all bits equal) as to a copy's would match every flat image.
    """
    distinctive = {
        split: {n: h for n, h in hashes.items() if max_distance < h.bit_count() < HASH_BITS - max_distance}
        for split, hashes in images.hashes.items()
    }
    hashed = sum(map(len, images.hashes.values()))
    flat = hashed - sum(map(len, distinctive.values()))
    note = f" ({hashed} of {images.num_images} images were hashed)" if hashed < images.num_images else ""
    return distinctive, note + (f"; {counted(flat, 'image')} without detail not compared" if flat else "")


@rule("TrainValOverlap", group="data", priority=4)
def train_val_overlap(images: ImageHashes, *, max_distance: int = 12) -> Outcome:
    """Detects images that are in the training split and in another one, which inflates the metrics.

    Args:
        images: 256-bit difference hashes of each split's images.
        max_distance: Bits in which two hashes of the same image may differ; 0: the same pixels, scaled to 17 x 16.

    Statuses:
        issue: An image is in two splits.
        insufficient_data: The training split or all others were not hashed.

    Source: an addition to AWS's rules.
    """
    count = sum(map(len, images.hashes.values()))
    hashes, note = _distinctive(images, max_distance)
    train = hashes.pop("train", {})
    others = {split: named for split, named in hashes.items() if named}
    if not train or not others:
        return insufficient(f"hashes of the training split and of another one are needed{note}", datapoints=count)
    evidence = [
        Evidence(f"bits that differ from its copy in {split}, {theirs}", mine, None, distance, max_distance)
        for split, named in others.items()
        for mine, theirs, distance in close_pairs(train, named, max_distance)
    ]
    if evidence:
        summary = f"{counted(len(evidence), 'image')} of other splits in the training split too{note}"
        suggestion = Suggestion("remove the copies from the training split, as python -m launch.publish does")
        return issue(summary, suggestion, evidence, datapoints=count)
    return ok(f"no image is in two splits{note}", datapoints=count)


@rule("NearDuplicates", group="data", priority=46, caused_by=("TrainValOverlap",))
def near_duplicates(images: ImageHashes, *, max_distance: int = 12, threshold_percent: float = 1.0) -> Outcome:
    """Detects a training split in which many images are nearly the same.

    Args:
        images: 256-bit difference hashes of each split's images.
        max_distance: Bits in which two hashes of nearly the same image may differ.
        threshold_percent: Percent of training images with a duplicate above which it fires.

    Statuses:
        issue: Too many images have a duplicate.
        insufficient_data: Fewer than 2 training images were hashed.

    Source: an addition to AWS's rules.
    """
    hashes, note = _distinctive(
        replace(images, hashes={"train": images.hashes.get("train", {})}, num_images=0), max_distance
    )
    train = hashes["train"]
    if len(train) < 2:
        return insufficient(f"hashes of at least two training images are needed{note}", datapoints=len(train))
    pairs = close_pairs(train, None, max_distance)
    percent = 100 * len(pairs) / len(train)
    evidence = [Evidence(f"bits that differ from {b}", a, None, distance, max_distance) for a, b, distance in pairs]
    if percent > threshold_percent:
        summary = f"{percent:.1f} % of the training images have a near duplicate{note}"
        suggestion = Suggestion("remove the near duplicates from the training split")
        return issue(summary, suggestion, evidence, datapoints=len(train))
    text = f"{counted(len(pairs), 'near duplicate')} among {len(train)} images{note}"
    return ok(text, datapoints=len(train), evidence=evidence)
