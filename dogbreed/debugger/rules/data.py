"""Rules about pictures: what the network is fed, copies in two splits, near duplicates, files that can not be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger.findings import Evidence, Outcome, insufficient, issue, ok
from dogbreed.debugger.registry import rule
from dogbreed.debugger.series import ImageStatistics, PictureHashes

Settings = Mapping[str, Any]

HASH_BITS = 256


@rule("CheckInputImages", group="data", priority=2)
def check_input_images(
    input_images: ImageStatistics,
    *,
    threshold_mean: float = 0.2,
    threshold_samples: int = 500,
    min_std: float = 0.5,
    max_std: float = 2.0,
) -> Outcome:
    """Pictures reach the network with another normalisation than it expects.

    A dataset may well be darker or flatter than ImageNet: where darkest and brightest value are those of the
    backbone's own normalisation of 0..1, the deviation is the pictures' own and said, but no issue (OURS).

    Args:
        input_images: Statistics of the first pictures that were fed.
        threshold_mean: Largest absolute mean of a channel that is still right (DOC, CFG: 0.2).
        threshold_samples: Pictures that it takes (DOC, CFG: 500).
        min_std: Smallest standard deviation of a channel that is still right (OURS).
        max_std: Largest one (OURS).

    Source: DOC 2.1 (AWS looks at one channel and at an MXNet name).
    """
    count = input_images.num_images
    if count < threshold_samples:
        return insufficient(f"{count} pictures were looked at; it takes {threshold_samples}", datapoints=count)
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
        return ok(f"pictures are normalised: {figures}", datapoints=count)
    if _spans_expected_range(input_images):
        text = f"normalised as the backbone expects; the pictures themselves differ: {figures}"
        return ok(text, datapoints=count, evidence=evidence)
    summary = f"pictures are not normalised as the network expects: {figures}, {_looks_like(input_images)}"
    return issue(summary, "++data.data_config=null", evidence, datapoints=count)


def _spans_expected_range(images: ImageStatistics) -> bool:
    """Returns whether the extremes are those of 0..1 pictures after the backbone's own normalisation."""
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


@rule("CorruptPictures", group="data", priority=32)
def corrupt_pictures(pictures: PictureHashes, *, threshold_percent: float = 0.0) -> Outcome:
    """Some picture files can not be read.

    Args:
        pictures: Hashes and unreadable files.
        threshold_percent: Percent of unreadable files that is still right.

    Source: OURS.
    """
    total = max(pictures.num_pictures, sum(map(len, pictures.hashes.values())) + len(pictures.bad))
    if not total:
        return insufficient("no picture was looked at")
    percent = 100 * len(pictures.bad) / total
    if percent > threshold_percent:
        evidence = [Evidence(reason, name, None, percent, threshold_percent) for name, reason in pictures.bad.items()]
        summary = f"{len(pictures.bad)} of {total} pictures can not be read"
        return issue(summary, "data.bad_images=raise", evidence, datapoints=total)
    return ok(f"{total} pictures, {len(pictures.bad)} of them unreadable", datapoints=total)


def _table(names: list[str], hashes: Mapping[str, int]) -> NDArray[np.uint64]:
    """Returns (N, 4) words of the 256-bit hashes."""
    packed = b"".join(hashes[name].to_bytes(HASH_BITS // 8, "little") for name in names)
    return np.frombuffer(packed, dtype="<u8").reshape(-1, HASH_BITS // 64).astype(np.uint64)


_BITS = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)


def close_pairs(
    first: Mapping[str, int], second: Mapping[str, int] | None, max_distance: int
) -> Iterator[tuple[str, str, int]]:
    """Yields (name, name, Hamming distance) of pictures whose hashes differ in at most `max_distance` bits.

    With `second` None: pairs within `first`, each once. Compared by brute force in blocks: 6000 pictures with
    themselves take about 2 s on one core.
    """
    names_a, names_b = list(first), list(first if second is None else second)
    if not names_a or not names_b:
        return
    a, b = _table(names_a, first), _table(names_b, first if second is None else second)
    for start in range(0, len(a), 256):
        later = start if second is None else 0
        mixed = a[start : start + 256, None, :] ^ b[None, later:, :]
        # The first 64 bits rule out nearly every pair before the whole hash is counted.
        near = _BITS[mixed[..., 0].copy().view(np.uint8).reshape(*mixed.shape[:2], 8)].sum(axis=2) <= max_distance
        for row, column in np.argwhere(near):
            i, j = start + int(row), later + int(column)
            distance = int(_BITS[mixed[row, column].copy().view(np.uint8)].sum())
            if distance <= max_distance and (second is not None or j > i):
                yield names_a[i], names_b[j], distance


def _hashed(pictures: PictureHashes) -> tuple[int, str]:
    count = sum(map(len, pictures.hashes.values()))
    part = f" ({count} of {pictures.num_pictures} pictures were hashed)" if count < pictures.num_pictures else ""
    return count, part


@rule("TrainValOverlap", group="data", priority=4)
def train_val_overlap(pictures: PictureHashes, *, max_distance: int = 12) -> Outcome:
    """The same picture is in the training and in the validation or test split, so the metrics flatter.

    Args:
        pictures: 256-bit difference hashes of each split's pictures.
        max_distance: Bits in which two hashes of the same picture may differ (0: the same pixels, scaled to 17 x 16).

    Source: OURS.
    """
    count, part = _hashed(pictures)
    train = pictures.hashes.get("train", {})
    others = {split: hashes for split, hashes in pictures.hashes.items() if split != "train" and hashes}
    if not train or not others:
        return insufficient("hashes of the training split and of another one are needed", datapoints=count)
    evidence = [
        Evidence(f"in train and in {split} (bits that differ): {theirs}", mine, None, distance, max_distance)
        for split, hashes in others.items()
        for mine, theirs, distance in close_pairs(train, hashes, max_distance)
    ]
    if evidence:
        summary = f"{len(evidence)} pictures are in the training split and in another one{part}"
        return issue(summary, "+debugger.rules.TrainValOverlap.max_distance=0", evidence, datapoints=count)
    return ok(f"no picture is in two splits{part}", datapoints=count)


@rule("NearDuplicates", group="data", priority=46, follows=("TrainValOverlap",))
def near_duplicates(pictures: PictureHashes, *, max_distance: int = 12, threshold_percent: float = 1.0) -> Outcome:
    """Many training pictures are nearly the same picture.

    Args:
        pictures: 256-bit difference hashes of each split's pictures.
        max_distance: Bits in which two hashes of nearly the same picture may differ.
        threshold_percent: Percent of training pictures with a double that is still right.

    Source: OURS.
    """
    count, part = _hashed(pictures)
    train = pictures.hashes.get("train", {})
    if len(train) < 2:
        return insufficient("hashes of two training pictures at least are needed", datapoints=count)
    pairs = list(close_pairs(train, None, max_distance))
    percent = 100 * len({b for _, b, _ in pairs}) / len(train)
    evidence = [Evidence(f"nearly the same as {b} (bits)", a, None, d, max_distance) for a, b, d in pairs]
    if percent > threshold_percent:
        summary = f"{percent:.1f} % of the training pictures have a double{part}"
        return issue(summary, "+debugger.rules.NearDuplicates.max_distance=0", evidence, datapoints=len(train))
    return ok(f"{len(pairs)} near duplicates among {len(train)}{part}", datapoints=len(train), evidence=evidence)
