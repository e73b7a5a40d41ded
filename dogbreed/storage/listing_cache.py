"""What is known of a bucket from before: a manifest, or the last listing, kept on this machine.

Neither is believed unseen. Pages of a thousand objects are listed and compared, keys, sizes and ETags: all of them
where there are few, else some that chance chooses, the first and the last. Nothing is ever written to the bucket.

With either, a training begins after these pages, however many there are. Without, it begins after the last: no order
it goes by is known sooner, as that of a shuffled epoch, the length of the schedule, the splits that are made and the
name of what is kept of a backbone's features depend on every key.
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
from dogbreed.storage.listing import Listing, pack
from dogbreed.storage.manifest import ManifestError, read_manifest
from dogbreed.storage.s3 import S3Store
from dogbreed.storage.s3_listing import Lister

log = logging.getLogger(__name__)

_PAGE = 1000
"""Objects in a page, as S3 has it."""

_COMPARED = 16
"""Pages that are compared."""

Pager = Callable[[str], tuple[list[ObjectInfo], bool]]
"""As `Lister.page` is."""


def find_listing(store: Store, folder: Path | None) -> Listing:
    """Returns the listing of a store: known from before where that still holds, else made anew.

    Args:
        store: One in S3; others are listed as quickly as compared.
        folder: Where listings are kept; None: they are not.

    Raises:
        UserError: the store cannot be listed.
    """
    if not isinstance(store, S3Store):
        return pack(store.entries())
    lister = Lister(store)
    page = lister.page
    entries, is_all = page("")
    if is_all:
        return pack(entries)
    place = f"{store.endpoint_url} {store.bucket}/{store.prefix}"
    file = folder / f"{hashlib.blake2b(place.encode(), digest_size=8).hexdigest()}.npz" if folder else None
    known = _kept(store, file, page) or _from_manifest(lister)
    if known is None:
        known = pack(lister.entries(many=_common_folder(entries)))
        if file:
            _keep(known, file)
    return known


def _kept(store: S3Store, file: Path | None, page: Pager) -> Listing | None:
    """Returns the listing in `file` if it still holds."""
    if file is None or not file.exists():
        return None
    try:
        listing = Listing.load(file)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s), %s is listed anew", file, error, store.url)
        return None
    made = datetime.fromtimestamp(file.stat().st_mtime)
    if reason := difference(page, listing):
        log.info("%s has changed since it was listed at %s (%s): listed anew", store.url, f"{made:%F %R}", reason)
        return None
    log.info("%s: as listed at %s (%s)", store.url, f"{made:%F %R}", _compared(listing))
    return listing


def _common_folder(entries: list[ObjectInfo]) -> str:
    """Returns the folder that all entries of a page, which are in order, lie in."""
    folders = [posixpath.dirname(entry.key) for entry in (*entries[:1], *entries[-1:])]
    folder = posixpath.commonpath(folders) if folders else ""
    return f"{folder}/" if folder else ""


def _from_manifest(lister: Lister) -> Listing | None:
    """Returns the listing that publishing has left in the bucket, if it still holds."""
    store = lister.store
    try:
        images = read_manifest(lister)
        if images is None:
            return None
        listing = pack(image.entry for image in images)
    except ManifestError as error:
        log.warning("%s: its manifest is not used, as %s", store.url, error)
        return None
    if reason := difference(lister.page, listing):
        log.warning("%s: its manifest is stale (%s) and not used; publish again to renew it", store.url, reason)
        return None
    log.info("%s: listed by its manifest (%s)", store.url, _compared(listing))
    return listing


def difference(page: Pager, listing: Listing, rng: random.Random | None = None) -> str | None:
    """Returns what is found to differ between the bucket and what is known of it, or None.

    Args:
        page: Is asked for `_COMPARED` pages, in parallel.
        listing: What is known.
        rng: Chooses the pages between the first and the last.
    """
    starts = range(0, max(1, len(listing)), _PAGE)
    last = len(starts) - 1
    if len(starts) > _COMPARED:
        chosen = {0, last, *(rng or random.Random()).sample(range(1, last), _COMPARED - 2)}
    else:
        chosen = set(range(len(starts)))

    def compare(number: int) -> str | None:
        begin, end = number * _PAGE, (number + 1) * _PAGE
        after = listing.keys[begin - 1] if begin else ""
        while True:
            entries, is_end = page(after)
            found = pack(entries)
            upto = len(listing) if is_end else bisect.bisect_right(listing.keys, entries[-1].key)
            if not np.array_equal(found.versions, listing.versions[begin:upto]):
                return _first_difference(found, listing, begin, upto)
            if is_end or (upto >= end and number != last):
                return None
            # Files that are no images lie between, so there are fewer images in a page than were counted for it.
            begin, after = upto, entries[-1].key

    with ThreadPoolExecutor(_COMPARED) as threads:
        return next(filter(None, threads.map(compare, sorted(chosen))), None)


def _first_difference(found: Listing, listing: Listing, begin: int, upto: int) -> str:
    now = dict(zip(found.keys, found.versions.tolist(), strict=True))
    before = dict(zip(listing.keys[begin:upto], listing.versions[begin:upto].tolist(), strict=True))
    key = min(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
    return f"{key} {'is new' if key not in before else 'is gone' if key not in now else 'was changed'}"


def _compared(listing: Listing) -> str:
    pages = math.ceil(len(listing) / _PAGE)
    return f"{min(pages, _COMPARED)} of {pages} pages compared"


def _keep(listing: Listing, file: Path) -> None:
    """Writes a listing; a disk that is full is no reason to end."""
    new = file.with_suffix(f".{os.getpid()}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        listing.save(new)
        new.replace(file)
    except OSError as error:
        log.warning("the listing is not kept: %s: %s", file, error.strerror)
        new.unlink(missing_ok=True)
