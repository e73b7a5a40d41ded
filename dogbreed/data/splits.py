"""Stratified splits that depend on the seed and the keys alone."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence


def stratified(
    keys: Sequence[str], labels: Sequence[int], fractions: Sequence[float], seed: int
) -> tuple[list[int], ...]:
    """Returns the positions in `keys` that each of `fractions` takes, and after them those that stay: all sorted.

    Within a class the images are ordered by a hash of seed and key, so an image that is added or taken away moves
    few others. Each fraction gets at least one image of a class that can spare it; one image always stays.

    Args:
        keys: Names of the images.
        labels: Class index of each.
        fractions: Part of every class that each new split takes, 0 to 1, together below 1.
        seed: Another seed makes other splits.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        members[label].append(position)
    taken: list[list[int]] = [[] for _ in range(len(fractions) + 1)]
    for positions in members.values():
        positions.sort(key=lambda position: _rank(keys[position], seed))
        start = 0
        for split, fraction in zip(taken, fractions, strict=False):
            wanted = max(1, round(fraction * len(positions))) if fraction else 0
            count = min(wanted, len(positions) - 1 - start)
            split.extend(positions[start : start + count])
            start += count
        taken[-1].extend(positions[start:])
    return tuple(sorted(split) for split in taken)


def _rank(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest()
