"""The images under a URL by class and split, listed at first use, once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from dogbreed.data.index import SPLITS, Index, Split, build_index
from dogbreed.errors import UserError, did_you_mean
from dogbreed.storage.base import open_store
from dogbreed.storage.demo import DemoStore
from dogbreed.storage.disk_cache import Cache
from dogbreed.storage.listing_cache import find_listing
from dogbreed.system import cpu as cores

log = logging.getLogger(__name__)

_FEW_IMAGES = 1000
"""Data sets up to this size are read in the training process: workers would cost more to start than they save."""


class Source:
    """Classes, splits and keys of the images under a URL, and what becomes of those that cannot be read.

    Args:
        url: Folder path, `file://`, `s3://bucket/prefix` or `demo://`.
        endpoint_url: Server of an S3-compatible store.
        request_payer: The requests are paid by who asks, as some buckets demand.
        num_workers: Processes that fetch and decode; None: 0 for small data sets, else up to 4.
        bad_images: `skip` leaves out images that cannot be read and names them in the log and in `bad_images`;
            `raise` ends the run at the first.
        max_bad: Share of the images seen in an epoch that may be left out, 0 to 1; with more the run ends. Counted
            over at least 1000 images, so that a small data set is not given up for two.
        valid_fraction: Part of each class to validate on, where there is no such split.
        test_fraction: Part of each class to test on, where there is no such split.
        split_seed: Of the splits that are made.
        cache: Folder for what was fetched; None: nothing is kept.
        cache_gb: Most that the images in `cache` may fill, 10^9 bytes.
        cache_scaled: Images are used, and kept, with a short side of at most 512 px.

    Raises:
        UserError: a setting out of its range.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None = None,
        request_payer: bool = False,
        num_workers: int | None = None,
        bad_images: Literal["skip", "raise"] = "skip",
        max_bad: float = 0.01,
        valid_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        cache: str | None = None,
        cache_gb: float = 20.0,
        cache_scaled: bool = False,
    ) -> None:
        check_at_least("num_workers", num_workers, 0)
        if bad_images not in ("skip", "raise"):
            raise UserError(f"data.bad_images={bad_images!r}{did_you_mean(str(bad_images), ('skip', 'raise'))}")
        if not 0 <= max_bad <= 1:
            raise UserError(f"data.max_bad={max_bad}: a share, 0 to 1; 0.01 is one in a hundred")
        if min(valid_fraction, test_fraction) < 0 or valid_fraction + test_fraction >= 1:
            raise UserError(
                f"data.valid_fraction={valid_fraction} and data.test_fraction={test_fraction}: "
                "neither may be negative, and together they must leave some of train (below 1)"
            )
        if cache_scaled and cache is None:
            raise UserError("data.cache_scaled=true keeps images in a cache: type data.cache=PATH too")
        self.store = open_store(url, endpoint_url, request_payer)
        self.url = str(url)
        self.cache: Cache | None = None
        if cache is not None:
            if isinstance(self.store, DemoStore):
                raise UserError(f"data.cache={cache} is of no use to {url}, whose images are made, not fetched")
            place = f"{endpoint_url or ''} {url}"
            self.cache = Cache.open(Path(cache).expanduser(), place, cache_gb, scaled=cache_scaled)
        self.on_bad_image = bad_images
        self.max_bad = max_bad
        self.bad_images: dict[str, str] = {}
        """Reason by key, for the images that could not be read so far."""
        self._num_workers = num_workers
        self.split_seed = split_seed
        self.valid_fraction, self.test_fraction = valid_fraction, test_fraction

    @property
    def num_workers(self) -> int:
        """Processes that fetch and decode for each split."""
        if self._num_workers is not None:
            return self._num_workers
        if self.url.startswith("demo://") or sum(map(len, self.splits.values())) <= _FEW_IMAGES:
            return 0
        return min(cores.count(), 4)

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
        log.info("%s: %d classes; images: %s", self.url, len(index.classes), counts)
        return index

    @property
    def splits(self) -> dict[str, Split]:
        """The images of train, valid and test."""
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
        """Number of images of each class, by split."""
        counts = {name: np.bincount(split.labels, minlength=self.num_classes) for name, split in self.splits.items()}
        return {name: count.tolist() for name, count in counts.items()}

    @property
    def fingerprint(self) -> str:
        """Changes when an image is added, taken away or changed: for caches of what is made from images."""
        return self.index.fingerprint

    def keys(self, split: str) -> Sequence[str]:
        """Returns the keys of a split's images, below the URL: a batch's `indices` are positions in this list.

        Raises:
            UserError: there is no such split.
        """
        if split not in self.splits:
            raise UserError(f"no split {split!r}{did_you_mean(split, self.splits)}")
        return self.splits[split].keys

    def leave_out(self, key: str, reason: str) -> None:
        """Notes an image that cannot be read, and says so once.

        Raises:
            UserError: none may be left out.
        """
        if self.on_bad_image == "raise":
            raise UserError(f"{key}: {reason}; data.bad_images=skip leaves such images out")
        if key not in self.bad_images:
            log.warning("left out %s: %s", key, reason)
            self.bad_images[key] = reason


def check_at_least(name: str, value: int | None, least: int) -> None:
    """Raises `UserError` for a number that is too small."""
    if value is not None and value < least:
        raise UserError(f"data.{name}={value}: at least {least}")
