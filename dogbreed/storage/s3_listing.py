"""Lists an S3 prefix with one boto3 client: folders in parallel, with a bounded number of pages in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from dogbreed.storage.base import ObjectInfo
from dogbreed.storage.credentials import user_errors

NUM_THREADS = 16

_Page = tuple[list[ObjectInfo], list[Callable[[], "_Page"]]]
"""The objects of a page, and the requests for the pages that follow from it."""


class S3Lister:
    """Lists objects below a prefix (empty, or ends in `/`) of a bucket; keys are relative to it."""

    def __init__(self, client: Any, bucket: str, prefix: str, *, request_payer: bool = False) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._options = {"RequestPayer": "requester"} if request_payer else {}

    def page(self, after: str = "") -> tuple[list[ObjectInfo], bool]:
        """Returns up to 1000 objects with keys after `after`, in order, and whether they are the last ones."""
        start = {"StartAfter": self._prefix + after} if after else {}
        page = self._list("", **start)
        return list(self._objects(page)), not page["IsTruncated"]

    def list_objects(self, large_folder: str | None = None) -> Iterator[ObjectInfo]:
        """Yields all objects, in any order. If they fill more than one page, folders are listed in parallel.

        Args:
            large_folder: A folder (empty, or ends in `/`) that is known to fill more than one page, which saves the
                requests that would find out.
        """
        queue: deque[Callable[[], _Page]] = deque([partial(self._page, "")])
        if large_folder is not None:
            names = large_folder.split("/")[:-1]
            queued = ["".join(f"{name}/" for name in names[:depth]) for depth in range(len(names) + 1)]
            queue = deque(partial(self._page, folder, by_folder=True, queued=queued) for folder in queued)
        with ThreadPoolExecutor(NUM_THREADS) as threads:
            pages: set[Future[_Page]] = set()
            while queue or pages:
                # Bounded, because the consumer may be slower than the threads.
                while queue and len(pages) < 2 * NUM_THREADS:
                    pages.add(threads.submit(queue.popleft()))
                done, pages = wait(pages, return_when=FIRST_COMPLETED)
                for objects, more in (page.result() for page in done):
                    queue.extend(more)
                    yield from objects

    def _page(self, folder: str, token: str = "", *, by_folder: bool = False, queued: list[str] | None = None) -> _Page:
        """Returns one page of the objects below `folder` (empty, or ends in `/`), and the requests for the rest.

        With `by_folder` it has direct children only, and sub-folders become requests unless they are `queued` already.
        """
        options = {"ContinuationToken": token} if token else {}
        page = self._list(folder, **options, **({"Delimiter": "/"} if by_folder else {}))
        objects = list(self._objects(page))
        more: list[Callable[[], _Page]] = []
        if page["IsTruncated"]:
            if not by_folder and not token and any("/" in item.key[len(folder) :] for item in objects):
                return [], [partial(self._page, folder, by_folder=True)]
            more.append(partial(self._page, folder, page["NextContinuationToken"], by_folder=by_folder, queued=queued))
        subfolders = (item["Prefix"][len(self._prefix) :] for item in page.get("CommonPrefixes", []))
        more += [partial(self._page, subfolder) for subfolder in subfolders if subfolder not in (queued or ())]
        return objects, more

    def _list(self, folder: str, **options: str) -> dict[str, Any]:
        url = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        with user_errors(f"data.url={url!r} cannot be listed"):
            page: dict[str, Any] = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=self._prefix + folder, **options, **self._options
            )
        return page

    def _objects(self, page: dict[str, Any]) -> Iterator[ObjectInfo]:
        for item in page.get("Contents", []):
            if key := item["Key"][len(self._prefix) :]:
                yield ObjectInfo(key, item["Size"], item["ETag"].strip('"'))

    def read(self, key: str) -> bytes | None:
        """Returns an object's content, or None if it does not exist."""
        with user_errors(f"s3://{self._bucket}/{self._prefix}{key} cannot be read"):
            try:
                response = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, **self._options)
                content: bytes = response["Body"].read()
            except self._client.exceptions.NoSuchKey:
                return None
        return content
