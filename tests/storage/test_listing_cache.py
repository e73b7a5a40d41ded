"""A cached listing or manifest is used while it matches the bucket, otherwise ignored with a log line."""

import bisect
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.proxy import Proxy
from dogbreed.storage import listing_cache, open_store
from dogbreed.storage.base import ObjectInfo
from dogbreed.storage.listing import Listing
from dogbreed.storage.manifest import MANIFEST, ImageFile, manifest_bytes
from dogbreed.storage.s3 import S3Store
from dogbreed.storage.s3_listing import NUM_THREADS
from tests.s3_server import S3Server

COUNT = 1100


@pytest.fixture(scope="module")
def images(s3_process: S3Server) -> Path:
    """A bucket of two pages, including files that are not images; empty files, which differ in their dates."""
    root = s3_process.root / "known"
    for number in range(COUNT):
        path = root / f"train/{number % 3}.pug/{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "labels.csv").write_text("a,b")
    for number in range(30):
        (root / f"train/1.pug/{number:05d}.txt").touch()
    return root


@pytest.fixture
def proxy(s3_server: S3Server, images: Path) -> Iterator[Proxy]:
    proxy = Proxy(s3_server.url)
    yield proxy
    (images / MANIFEST).unlink(missing_ok=True)
    proxy.close()


def find(proxy: Proxy, folder: Path | None = None) -> Listing:
    proxy.lists.clear()
    return listing_cache.find_listing(open_store("s3://known", proxy.url), folder)


def publish(images: Path, server: S3Server) -> None:
    entries = [entry for entry in open_store("s3://known", server.url).list_objects() if entry.key.endswith(".jpg")]
    (images / MANIFEST).write_bytes(manifest_bytes(ImageFile(*entry) for entry in entries))


def test_listing_is_cached_and_used_while_valid(
    proxy: Proxy, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = find(proxy, tmp_path)
    assert len(first) == COUNT
    whole = len(proxy.lists)
    again = find(proxy, tmp_path)
    assert list(again.keys) == list(first.keys)
    assert again.fingerprint == first.fingerprint
    assert again.other_suffixes == first.other_suffixes == {".csv": 1, ".txt": 30}
    assert again.folders == first.folders
    assert "2 of 2 pages compared" in caplog.text
    assert len(proxy.lists) < whole
    added = images / "train/1.pug/00500x.jpg"
    added.touch()
    assert len(find(proxy, tmp_path)) == COUNT + 1
    assert "(train/1.pug/00500x.jpg is new); listing it again" in caplog.text
    added.write_bytes(b"x")
    find(proxy, tmp_path)
    assert "(train/1.pug/00500x.jpg was modified); listing it again" in caplog.text
    added.unlink()
    assert len(find(proxy, tmp_path)) == COUNT
    assert "(train/1.pug/00500x.jpg is gone); listing it again" in caplog.text
    next(tmp_path.glob("*.npz")).write_bytes(b"PK damaged")
    assert find(proxy, tmp_path).fingerprint == first.fingerprint
    assert "cannot be read" in caplog.text


def test_manifest_is_used_while_valid(
    proxy: Proxy, images: Path, s3_server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    listed = find(proxy)
    whole = len(proxy.lists)
    assert listed.other_suffixes == {".csv": 1, ".txt": 30}
    publish(images, s3_server)
    assert find(proxy).fingerprint == listed.fingerprint
    assert "using its manifest (2 of 2 pages compared)" in caplog.text
    assert len(proxy.lists) < whole
    gone = images / f"train/{(COUNT - 1) % 3}.pug/{COUNT - 1:05d}.jpg"
    gone.unlink()
    try:
        assert len(find(proxy)) == COUNT - 1
    finally:
        gone.touch()
    (stale,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"ignoring its stale manifest (train/{gone.parent.name}/{gone.name} is gone)" in stale.message
    content = (images / MANIFEST).read_bytes()
    (images / MANIFEST).write_bytes(content[: len(content) // 2])
    assert len(find(proxy)) == COUNT
    assert "ignoring its manifest: it is damaged" in caplog.text


def test_sample_of_many_pages_is_compared(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store("s3://known", proxy.url)
    listing = Listing.pack(store.list_objects())
    monkeypatch.setattr(listing_cache, "_PAGE_SIZE", 50)
    proxy.lists.clear()
    assert listing_cache.difference(store.lister().page, listing) is None
    assert len(proxy.lists) == listing_cache._MAX_PAGES_COMPARED


def test_listed_pages_are_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing uses bounded memory even if packing is slower than the sixteen listing threads."""
    pages = 200 * 5
    listed: list[str] = []

    class Client:
        def list_objects_v2(self, Prefix: str, ContinuationToken: str = "0", **_: Any) -> dict[str, Any]:
            if not Prefix:
                return {"IsTruncated": False, "CommonPrefixes": [{"Prefix": f"{name:03d}/"} for name in range(200)]}
            listed.append(Prefix)
            number = int(ContinuationToken)
            item = {"Key": f"{Prefix}{number}.jpg", "Size": 1, "ETag": '"e"'}
            return {"Contents": [item], "IsTruncated": number < 4, "NextContinuationToken": str(number + 1)}

    monkeypatch.setattr(S3Store, "boto_client", lambda self: Client())
    entries = S3Store.from_url("s3://million", None).lister().list_objects(large_folder="")
    found = []
    for entry in entries:
        found.append(entry.key)
        time.sleep(0.001 if len(found) < 100 else 0)
        assert len(listed) - len(found) <= 2 * NUM_THREADS
    assert len(set(found)) == len(found) == pages


def test_single_page_is_listed_without_manifest(s3_server: S3Server, images: Path, tmp_path: Path) -> None:
    (images / "train/0.pug" / MANIFEST).write_bytes(b"never read")
    small = s3_server.root / "small/a"
    small.mkdir(parents=True)
    (small / "1.jpg").touch()
    proxy = Proxy(s3_server.url)
    assert len(listing_cache.find_listing(open_store("s3://small", proxy.url), tmp_path)) == 1
    proxy.close()
    assert (len(proxy.lists), len(proxy.gets)) == (1, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("request_payer", [True, False])
def test_requester_pays_header_is_sent_if_configured(s3_server: S3Server, request_payer: bool) -> None:
    import asyncio

    root = s3_server.root / "payer/a"
    root.mkdir(parents=True, exist_ok=True)
    (root / "1.jpg").write_bytes(b"1")
    proxy = Proxy(s3_server.url)
    store = open_store("s3://payer", proxy.url, request_payer)
    assert (
        [entry.key for entry in store.list_objects()]
        == [entry.key for entry in store.lister().page()[0]]
        == ["a/1.jpg"]
    )
    assert store.read("a/1.jpg") == asyncio.run(store.fetch("a/1.jpg")).data == b"1"
    proxy.close()
    assert len(proxy.heads) == 4
    assert all((b"x-amz-request-payer: requester" in head.lower()) == request_payer for head in proxy.heads)


def test_all_processes_compare_the_same_pages() -> None:
    """Processes that compared different samples of a changed bucket would use different listings."""
    objects = [ObjectInfo(f"train/a/{number:05d}.jpg", number, "e") for number in range(20_000)]
    listing = Listing.pack(objects)
    present = [item for item in objects if item.size != 7777]
    keys = [item.key for item in present]

    def compared(process: int) -> tuple[str | None, set[str]]:
        random.seed(process)
        asked = set()

        def page(after: str) -> tuple[list[ObjectInfo], bool]:
            asked.add(after)
            begin = bisect.bisect_right(keys, after)
            return present[begin : begin + 1000], begin + 1000 >= len(present)

        return listing_cache.difference(page, listing, seed=3), asked

    answers = [compared(process) for process in range(8)]
    assert len({reason for reason, _ in answers}) == 1
