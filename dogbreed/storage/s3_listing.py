"""Listing an S3 bucket, by one boto3 client: in parallel a folder, and never more pages ahead than threads need."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from dogbreed.errors import UserError
from dogbreed.storage.base import ObjectInfo
from dogbreed.storage.credentials import advice

if TYPE_CHECKING:
    from dogbreed.storage.s3 import S3Store

THREADS = 16

_Page = tuple[list[ObjectInfo], list[Callable[[], "_Page"]]]
"""Some entries, and what gives those that are still missing."""


class Lister:
    """Lists one store; a client takes a tenth of a second to make, so one is kept for all that is asked.

    Args:
        store: Whose objects.

    Raises:
        UserError: no client can be made, as of an unknown profile.
    """

    def __init__(self, store: S3Store) -> None:
        self.store = store
        with self._errors(f"data.url={store.url!r} cannot be listed"):
            self._client = store.make_client()

    def page(self, after: str = "") -> tuple[list[ObjectInfo], bool]:
        """Returns up to 1000 objects whose keys follow one, in order, and whether they are the last."""
        start = {"StartAfter": self.store.prefix + after} if after else {}
        page = self._list("", **start)
        return list(self._entries_of(page)), not page["IsTruncated"]

    def entries(self, many: str | None = None) -> Iterator[ObjectInfo]:
        """Yields all objects; where they fill more than a page, folders are listed in parallel.

        Args:
            many: A folder, `` or one that ends in `/`, of which it is known that it fills more than a page.
        """
        todo: deque[Callable[[], _Page]] = deque([partial(self._page, "")])
        if many is not None:
            names = many.split("/")[:-1]
            known = ["".join(f"{name}/" for name in names[:depth]) for depth in range(len(names) + 1)]
            todo = deque(partial(self._page, folder, by_folder=True, known=known) for folder in known)
        with ThreadPoolExecutor(THREADS) as threads:
            pages: set[Future[_Page]] = set()
            while todo or pages:
                # Who packs entries may be slower than the threads: a million must not pile up.
                while todo and len(pages) < 2 * THREADS:
                    pages.add(threads.submit(todo.popleft()))
                done, pages = wait(pages, return_when=FIRST_COMPLETED)
                for entries, more in (page.result() for page in done):
                    todo.extend(more)
                    yield from entries

    def _page(self, folder: str, token: str = "", *, by_folder: bool = False, known: list[str] | None = None) -> _Page:
        """Returns one page of what lies below `folder`, and what gives the rest of it.

        Args:
            folder: Below the store's prefix; empty, or ends in `/`.
            token: Where an earlier page ended; empty: from the beginning.
            by_folder: Only what lies directly in it: its folders are left to others.
            known: Folders that are already seen to.
        """
        options = {"ContinuationToken": token} if token else {}
        page = self._list(folder, **options, **({"Delimiter": "/"} if by_folder else {}))
        entries = list(self._entries_of(page))
        more: list[Callable[[], _Page]] = []
        if page["IsTruncated"]:
            if not by_folder and not token and any("/" in entry.key[len(folder) :] for entry in entries):
                return [], [partial(self._page, folder, by_folder=True)]
            more.append(partial(self._page, folder, page["NextContinuationToken"], by_folder=by_folder, known=known))
        below = (found["Prefix"][len(self.store.prefix) :] for found in page.get("CommonPrefixes", []))
        more += [partial(self._page, each) for each in below if each not in (known or ())]
        return entries, more

    def _list(self, folder: str, **options: str) -> dict[str, Any]:
        store = self.store
        with self._errors(f"data.url={store.url!r} cannot be listed"):
            page: dict[str, Any] = self._client.list_objects_v2(
                Bucket=store.bucket, Prefix=store.prefix + folder, **options, **store.payer
            )
        return page

    def _entries_of(self, page: dict[str, Any]) -> Iterator[ObjectInfo]:
        for item in page.get("Contents", []):
            if key := item["Key"][len(self.store.prefix) :]:
                yield ObjectInfo(key, item["Size"], item["ETag"].strip('"'))

    def read(self, key: str) -> bytes | None:
        """Returns an object's content, or None where there is none; by boto3, so that workers can still be forked."""
        store = self.store
        with self._errors(f"s3://{store.bucket}/{store.prefix}{key} cannot be read"):
            try:
                answer = self._client.get_object(Bucket=store.bucket, Key=store.prefix + key, **store.payer)
                content: bytes = answer["Body"].read()
            except self._client.exceptions.NoSuchKey:
                return None
        return content

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Makes what goes wrong in the block the user's error."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise UserError(f"{what}: {advice(error)}") from error
