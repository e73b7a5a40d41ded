"""ImageSource: the images under a URL by class and split, listed once at first use."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from dogbreed.data.index import SPLITS, Index, Split, build_index
from dogbreed.data.settings import DataSettings, S3DataSettings
from dogbreed.data.shrink import shrink
from dogbreed.errors import UserError, did_you_mean
from dogbreed.storage import open_store
from dogbreed.storage.demo import DemoStore
from dogbreed.storage.disk_cache import DiskCache
from dogbreed.storage.listing_cache import find_listing
from dogbreed.system.cpu import cpu_count
from dogbreed.system.settings import check

log = logging.getLogger(__name__)

CACHED_SHORT_SIDE = 512
"""Short side of downscaled images in the cache, px."""

_FEW_IMAGES = 1000
"""Data sets up to this size are read in the main process: starting workers would cost more than they save."""


class ImageSource:
    """Classes, splits and keys of the images under a URL, and the images that could not be read.

    Args:
        url: Folder path, `file://`, `s3://bucket/prefix` or `demo://`.
        endpoint_url: Server of an S3-compatible store; None: AWS, or boto3's own settings.
        request_payer: The requester pays, as requester-pays buckets demand.
        num_workers: Processes that fetch and decode; None: 0 for up to 1000 images, else one per CPU up to 4.
        bad_images: `skip` skips unreadable images, logs them and records them in `bad_images`; `raise` ends the run
            at the first one.
        max_bad: Largest share of an epoch's images that may be skipped, 0 to 1; beyond it the run ends. Computed over
            at least 1000 images, so that two bad images do not end a training on a hundred.
        val_fraction: Fraction of each class that becomes the val split if there is none.
        test_fraction: Fraction of each class that becomes the test split if there is none.
        split_seed: Determines these splits.
        cache: Folder for fetched images; None: no cache.
        cache_gb: Size limit of the cache, 10^9 bytes.
        cache_scaled: Downscales images to a short side of 512 px for training and in the cache.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None = S3DataSettings.endpoint_url,
        request_payer: bool = S3DataSettings.request_payer,
        num_workers: int | None = DataSettings.num_workers,
        bad_images: str = DataSettings.bad_images,
        max_bad: float = DataSettings.max_bad,
        val_fraction: float = DataSettings.val_fraction,
        test_fraction: float = DataSettings.test_fraction,
        split_seed: int = 0,
        cache: str | None = DataSettings.cache,
        cache_gb: float = DataSettings.cache_gb,
        cache_scaled: bool = DataSettings.cache_scaled,
    ) -> None:
        given = {"num_workers": num_workers, "bad_images": bad_images, "max_bad": max_bad, "cache_gb": cache_gb}
        check(DataSettings, given | {"val_fraction": val_fraction, "test_fraction": test_fraction}, "data.")
        if val_fraction + test_fraction >= 1:
            raise UserError(
                f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction}: their sum must be below 1"
            )
        if cache_scaled and cache is None:
            raise UserError("data.cache_scaled=true needs a cache: type data.cache=PATH too")
        self.store = open_store(url, endpoint_url, request_payer)
        self.url = str(url)
        self.cache: DiskCache | None = None
        if cache is not None:
            if isinstance(self.store, DemoStore):
                raise UserError(f"data.cache={cache} has no use for {url}, whose images are generated")
            self.cache = DiskCache.open(
                Path(cache).expanduser(),
                f"{endpoint_url or ''} {url}",
                cache_gb,
                convert=partial(shrink, short_side=CACHED_SHORT_SIDE) if cache_scaled else None,
                variant=CACHED_SHORT_SIDE if cache_scaled else 0,
            )
        self.on_bad_image = bad_images
        self.max_bad = max_bad
        self.bad_images: dict[str, str] = {}
        """Reason by key, for the images that could not be read so far."""
        self._num_workers = num_workers
        self.split_seed = split_seed
        self.val_fraction, self.test_fraction = val_fraction, test_fraction

    @property
    def num_workers(self) -> int:
        """Processes that fetch and decode for each split."""
        if self._num_workers is not None:
            return self._num_workers
        if isinstance(self.store, DemoStore) or sum(map(len, self.splits.values())) <= _FEW_IMAGES:
            return 0
        return min(cpu_count(), 4)

    @cached_property
    def index(self) -> Index:
        """Classes and splits; listed and logged at first use."""
        index = build_index(
            find_listing(self.store, self.cache.folder / "listings" if self.cache else None, self.split_seed),
            self.url,
            val_fraction=self.val_fraction,
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
        """The images of train, val and test."""
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
        """Changes when an image is added, removed or modified; the key of caches derived from the images."""
        return self.index.fingerprint

    def keys(self, split: str) -> Sequence[str]:
        """Returns the keys of a split's images, below the URL: a batch's `indices` are positions in this list.

        Raises:
            UserError: unknown split.
        """
        if split not in self.splits:
            raise UserError(f"no split {split!r}{did_you_mean(split, self.splits)}")
        return self.splits[split].keys

    def skip_image(self, key: str, reason: str) -> None:
        """Records an image that cannot be read, and logs it once.

        Raises:
            UserError: with `bad_images="raise"`.
        """
        if self.on_bad_image == "raise":
            raise UserError(f"{key}: {reason}; data.bad_images=skip skips such images")
        if key not in self.bad_images:
            log.warning("skipped %s: %s", key, reason)
            self.bad_images[key] = reason
