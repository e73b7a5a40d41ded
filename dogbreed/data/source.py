"""The pictures under a URL by class and split, listed at first use, once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from dogbreed.data.cache import Cache
from dogbreed.data.demo import DemoStore
from dogbreed.data.index import SPLITS, Index, Split, build_index
from dogbreed.data.known import find_listing
from dogbreed.data.store import open_store
from dogbreed.errors import UserError, did_you_mean

log = logging.getLogger(__name__)


class Source:
    """Classes, splits and keys of the pictures under a URL.

    Args:
        url: Folder path, `file://`, `s3://bucket/prefix` or `demo://`.
        endpoint_url: Server of an S3-compatible store.
        request_payer: The requests are paid by who asks, as some buckets demand.
        valid_fraction: Part of each class to validate on, where there is no such split.
        test_fraction: Part of each class to test on, where there is no such split.
        split_seed: Of the splits that are made.
        cache: Folder for what was fetched; None: nothing is kept.
        cache_gb: Most that the pictures in `cache` may fill, 10^9 bytes.
        cache_scaled: Pictures are used, and kept, with a short side of at most 512 px.

    Raises:
        UserError: a setting out of its range.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None = None,
        request_payer: bool = False,
        valid_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        cache: str | None = None,
        cache_gb: float = 20.0,
        cache_scaled: bool = False,
    ) -> None:
        if min(valid_fraction, test_fraction) < 0 or valid_fraction + test_fraction >= 1:
            raise UserError(
                f"data.valid_fraction={valid_fraction} and data.test_fraction={test_fraction}: "
                "neither may be negative, and together they must leave some of train (below 1)"
            )
        if cache_scaled and cache is None:
            raise UserError("data.cache_scaled=true keeps pictures in a cache: type data.cache=PATH too")
        self.store = open_store(url, endpoint_url, request_payer)
        self.url = str(url)
        self.cache: Cache | None = None
        if cache is not None:
            if isinstance(self.store, DemoStore):
                raise UserError(f"data.cache={cache} is of no use to {url}, whose pictures are made, not fetched")
            place = f"{endpoint_url or ''} {url}"
            self.cache = Cache.open(Path(cache).expanduser(), place, cache_gb, scaled=cache_scaled)
        self.split_seed = split_seed
        self.valid_fraction, self.test_fraction = valid_fraction, test_fraction

    @cached_property
    def index(self) -> Index:
        """The listing: made at first use, and said in the log."""
        index = build_index(
            find_listing(self.store, self.cache.folder / "listings" if self.cache else None),
            self.url,
            valid_fraction=self.valid_fraction,
            test_fraction=self.test_fraction,
            seed=self.split_seed,
        )
        for note in index.notes:
            log.log(note.level, note.text)
        counts = ", ".join(f"{len(index.splits[name])} {name}" for name in SPLITS)
        log.info("%s: %d classes; pictures: %s", self.url, len(index.classes), counts)
        return index

    @property
    def splits(self) -> dict[str, Split]:
        """The pictures of train, valid and test."""
        return self.index.splits

    @property
    def classes(self) -> list[str]:
        """Sorted names of the class folders: a label is an index in this list."""
        return self.index.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def class_counts(self) -> dict[str, list[int]]:
        """Number of pictures of each class, by split."""
        counts = {name: np.bincount(split.labels, minlength=self.num_classes) for name, split in self.splits.items()}
        return {name: count.tolist() for name, count in counts.items()}

    @property
    def fingerprint(self) -> str:
        """Changes when a picture is added, taken away or changed: for caches of what is made from pictures."""
        return self.index.fingerprint

    def keys(self, split: str) -> Sequence[str]:
        """Returns the keys of a split's pictures, below the URL: a batch's `indices` are positions in this list.

        Raises:
            UserError: there is no such split.
        """
        if split not in self.splits:
            raise UserError(f"no split {split!r}{did_you_mean(split, self.splits)}")
        return self.splits[split].keys
