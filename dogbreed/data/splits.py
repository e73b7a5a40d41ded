"""Stratified splits that depend on the seed and the keys alone."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence


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
