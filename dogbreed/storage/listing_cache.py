"""Finds the listing of an S3 prefix: from a manifest or a cached listing if they are still valid, else by listing it.

Both are validated against pages of a thousand objects, by keys, sizes and ETags: all pages of a small listing; of a
large one the first, the last and a sample. Nothing is ever written to the bucket. The full listing is needed before
training starts, because the shuffled order, the number of steps, generated splits and the name of cached features
depend on every key.
"""

from __future__ import annotations

import bisect
import hashlib
import logging
import math
import os
import posixpath
import random
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import numpy as np

from dogbreed.storage.base import ObjectInfo, Store
from dogbreed.storage.listing import Listing
from dogbreed.storage.manifest import ManifestError, read_manifest
from dogbreed.storage.s3 import S3Store
from dogbreed.storage.s3_listing import S3Lister

log = logging.getLogger(__name__)

_PAGE_SIZE = 1000
"""Objects in a page of S3."""

_MAX_PAGES_COMPARED = 16

Pager = Callable[[str], tuple[list[ObjectInfo], bool]]
"""Signature of `S3Lister.page`."""


def find_listing(store: Store, cache_folder: Path | None, seed: int = 0) -> Listing:
    """Returns the listing of a store, from its manifest or the cache if they are still valid.

    Args:
        store: Stores outside S3 are always listed, which is as fast as validating.
        cache_folder: Folder of cached listings; None: no cache.
        seed: Selects the pages that are compared; must be the same in all ranks of a distributed training, so that
            all of them use the same listing.

    Raises:
        UserError: the store cannot be listed.
    """
    if not isinstance(store, S3Store):
        return Listing.pack(store.list_objects())
    lister = store.lister()
    objects, is_all = lister.page("")
    if is_all:
        return Listing.pack(objects)
    name = f"{store.endpoint_url} {store.bucket}/{store.prefix}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    file = cache_folder / f"{digest}.npz" if cache_folder else None
    listing = _from_cache(store, file, lister.page, seed) or _from_manifest(store, lister, seed)
    if listing is None:
        listing = Listing.pack(lister.list_objects(large_folder=_common_folder(objects)))
        if file:
            _save(listing, file)
    return listing


def _from_cache(store: S3Store, file: Path | None, page: Pager, seed: int) -> Listing | None:
    """Returns the listing in `file` if it is still valid."""
    if file is None or not file.exists():
        return None
    try:
        listing = Listing.load(file)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s); listing %s again", file, error, store.url)
        return None
    made = datetime.fromtimestamp(file.stat().st_mtime)
    if reason := difference(page, listing, seed):
        log.info("%s has changed since the listing of %s (%s); listing it again", store.url, f"{made:%F %R}", reason)
        return None
    log.info("%s: using the listing of %s (%s)", store.url, f"{made:%F %R}", _pages_compared(listing))
    return listing


def _common_folder(objects: list[ObjectInfo]) -> str:
    """Returns the folder that contains all objects of a sorted page; empty, or ends in `/`."""
    folders = [posixpath.dirname(item.key) for item in (*objects[:1], *objects[-1:])]
    folder = posixpath.commonpath(folders) if folders else ""
    return f"{folder}/" if folder else ""


def _from_manifest(store: S3Store, lister: S3Lister, seed: int) -> Listing | None:
    """Returns the listing in the bucket's manifest if it is still valid."""
    try:
        images = read_manifest(lister)
        if images is None:
            return None
        listing = Listing.pack(image.object_info for image in images)
    except ManifestError as error:
        log.warning("%s: ignoring its manifest: %s", store.url, error)
        return None
    if reason := difference(lister.page, listing, seed):
        log.warning("%s: ignoring its stale manifest (%s); publish again to update it", store.url, reason)
        return None
    log.info("%s: using its manifest (%s)", store.url, _pages_compared(listing))
    return listing


def difference(page: Pager, listing: Listing, seed: int = 0) -> str | None:
    """Returns the first difference found between the bucket, as `page` lists it, and a listing, or None.

    `seed` and the listing's fingerprint select the pages between the first and the last.
    """
    starts = range(0, max(1, len(listing)), _PAGE_SIZE)
    last = len(starts) - 1
    if len(starts) > _MAX_PAGES_COMPARED:
        rng = random.Random(f"{seed}/{listing.fingerprint}")
        selected = {0, last, *rng.sample(range(1, last), _MAX_PAGES_COMPARED - 2)}
    else:
        selected = set(range(len(starts)))

    def compare(number: int) -> str | None:
        begin, end = number * _PAGE_SIZE, (number + 1) * _PAGE_SIZE
        after = listing.keys[begin - 1] if begin else ""
        while True:
            objects, is_end = page(after)
            current = Listing.pack(objects)
            upto = len(listing) if is_end else bisect.bisect_right(listing.keys, objects[-1].key)
            if not np.array_equal(current.versions, listing.versions[begin:upto]):
                return _first_difference(current, listing, begin, upto)
            if is_end or (upto >= end and number != last):
                return None
            # Other files take up part of the bucket's page, so one page of the listing can need several.
            begin, after = upto, objects[-1].key

    with ThreadPoolExecutor(_MAX_PAGES_COMPARED) as threads:
        return next(filter(None, threads.map(compare, sorted(selected))), None)


def _first_difference(current: Listing, listing: Listing, begin: int, upto: int) -> str:
    now = dict(zip(current.keys, current.versions.tolist(), strict=True))
    before = dict(zip(listing.keys[begin:upto], listing.versions[begin:upto].tolist(), strict=True))
    key = min(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
    return f"{key} {'is new' if key not in before else 'is gone' if key not in now else 'was modified'}"


def _pages_compared(listing: Listing) -> str:
    pages = math.ceil(len(listing) / _PAGE_SIZE)
    return f"{min(pages, _MAX_PAGES_COMPARED)} of {pages} pages compared"


def _save(listing: Listing, file: Path) -> None:
    """Caches a listing; a full disk only logs a warning."""
    part = file.with_suffix(f".{os.getpid()}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        listing.save(part)
        part.replace(file)
    except OSError as error:
        log.warning("cannot cache the listing in %s: %s", file, error.strerror)
        part.unlink(missing_ok=True)
