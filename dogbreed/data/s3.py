"""Objects of an S3 bucket, or of any server that speaks S3.

boto3 lists and finds credentials (environment, profile, role); obstore, whose requests run in Rust, gets the objects.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dogbreed.data.aws import advice, first_line, provider
from dogbreed.data.store import BusyError, Content, Entry, PictureError
from dogbreed.errors import UserError

_LISTING_THREADS = 16

_REQUEST_LIMITS: dict[str, Any] = {
    "client_options": {"allow_http": True, "connect_timeout": "5s", "timeout": "120s"},
    "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=120)},  # `Patience` does it, for bodies too
}

_ANY_REGION = "us-east-1"
"""Servers other than AWS take any, but there has to be one to sign with."""

RUN_OUT = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed")
"""What S3 says with status 400 where credentials are not taken any more."""

_clients: dict[tuple[int, S3Store], Any] = {}
"""obstore clients by process and store. Their Rust threads do not survive a fork: a copied client would hang."""


@dataclass(frozen=True)
class S3Store:
    """Objects below `s3://bucket/prefix`."""

    url: str
    bucket: str
    prefix: str
    """Empty, or ends in `/`."""
    endpoint_url: str | None
    request_payer: bool = False

    @classmethod
    def from_url(cls, url: str, endpoint_url: str | None, request_payer: bool = False) -> S3Store:
        """Returns the store for `s3://bucket/prefix`; the prefix is taken as it is typed, `#` and `%` too.

        Raises:
            UserError: no bucket is named, or `endpoint_url` has no http:// or https://.
        """
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise UserError(f"data.url={url!r} names no bucket; type s3://bucket/prefix")
        if endpoint_url is not None and not endpoint_url.startswith(("http://", "https://")):
            raise UserError(f"data.endpoint_url={endpoint_url!r}: type http://HOST:PORT or https://HOST")
        prefix = prefix.strip("/")
        return cls(url, bucket, f"{prefix}/" if prefix else "", endpoint_url, request_payer)

    def entries(self, many: bool = False) -> Iterator[Entry]:
        """Yields the objects below the prefix; where they fill more than a page, its folders are listed in parallel.

        Args:
            many: It is known that they do.
        """
        with self._listing() as client, ThreadPoolExecutor(_LISTING_THREADS) as threads:
            # A page that a thread has found is either yielded or leads to further pages.
            pages = {threads.submit(self._list_folders if many else self._list, client, self.prefix)}
            while pages:
                done, pages = wait(pages, return_when=FIRST_COMPLETED)
                for entries, more in (page.result() for page in done):
                    yield from entries
                    pages |= {threads.submit(self._list, client, **options) for options in more}

    def pager(self) -> Callable[[str], tuple[list[Entry], bool]]:
        """Returns what gives up to 1000 objects whose keys follow one, in order, and whether they are the last."""
        with self._listing() as client:
            made = client

        def page(after: str) -> tuple[list[Entry], bool]:
            start = {"StartAfter": self.prefix + after} if after else {}
            with self._listing(made) as client:
                page = client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, **start, **self._payer)
            return list(self._entries_of(page)), not page["IsTruncated"]

        return page

    @contextmanager
    def _listing(self, client: Any = None) -> Iterator[Any]:
        """Yields a client, where there is none a new one; what goes wrong in the block is the user's error."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield client or self.make_client()
        except (BotoCoreError, ClientError) as error:
            raise UserError(f"data.url={self.url!r} can not be listed: {advice(error)}") from error

    def _list(
        self, client: Any, prefix: str, token: str = "", split: bool = True
    ) -> tuple[list[Entry], list[dict[str, Any]]]:
        """Returns entries of one page below `prefix`, and the arguments of the calls that give those still missing.

        Args:
            client: boto3's; it may be used by several threads.
            prefix: What the keys begin with.
            token: Where an earlier page ended; empty: from the beginning.
            split: A page that does not hold all is given up for the pages of each folder; else the next one follows.
        """
        options = {"ContinuationToken": token} if token else {}
        page = client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **options, **self._payer)
        if page["IsTruncated"] and split:
            return self._list_folders(client, prefix)
        more = (
            [{"prefix": prefix, "token": page["NextContinuationToken"], "split": False}] if page["IsTruncated"] else []
        )
        return list(self._entries_of(page)), more

    def _list_folders(self, client: Any, prefix: str) -> tuple[list[Entry], list[dict[str, Any]]]:
        """Returns the objects directly below `prefix`, and how to list each of its folders."""
        entries: list[Entry] = []
        more: list[dict[str, Any]] = []
        pages = client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/", **self._payer):
            entries += self._entries_of(page)
            more += [{"prefix": folder["Prefix"]} for folder in page.get("CommonPrefixes", [])]
        return entries, more

    def _entries_of(self, page: dict[str, Any]) -> Iterator[Entry]:
        for item in page.get("Contents", []):
            if key := item["Key"][len(self.prefix) :]:
                yield Entry(key, item["Size"], item["ETag"].strip('"'))

    def read(self, key: str) -> bytes | None:
        """Returns an object's content, or None where there is none; by boto3, so that workers can still be forked."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self.make_client().get_object(Bucket=self.bucket, Key=self.prefix + key, **self._payer)
            content: bytes = answer["Body"].read()
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise UserError(f"s3://{self.bucket}/{self.prefix}{key} can not be read: {advice(error)}") from error
        return content

    async def fetch(self, key: str) -> bytes:
        """Returns an object's content.

        A refusal may only mean that the credentials have run out, or were renewed by somebody else: they are looked
        up anew, once.
        """
        from obstore.exceptions import BaseError, GenericError

        refused_client = None
        while True:
            client = self._current_client(key, refused_client)
            try:
                return await _get(client, self.prefix + key)
            except FileNotFoundError as error:
                raise PictureError("not in the bucket any more") from error
            except BaseError as error:
                refused = not isinstance(error, GenericError) or any(code in str(error) for code in RUN_OUT)
                if not refused:
                    raise BusyError(first_line(error)) from error
                if refused_client is not None:
                    raise UserError(
                        f"s3://{self.bucket}/{self.prefix}{key} can not be read: {advice(error)}"
                    ) from error
            refused_client = client

    def _current_client(self, key: str, refused_client: Any) -> Any:
        """Returns this process's client: a new one where there is none, or only the one that was refused."""
        from botocore.exceptions import BotoCoreError, ClientError

        place = (os.getpid(), self)
        if (client := _clients.get(place)) is None or client is refused_client:
            try:
                client = _clients[place] = self._client()
            except (BotoCoreError, ClientError) as error:
                raise UserError(f"s3://{self.bucket}/{self.prefix}{key} can not be read: {advice(error)}") from error
        return client

    def fork_is_safe(self) -> bool:
        """Returns whether no obstore client, whose threads a fork would lose, was made in this process yet."""
        return not any(pid == os.getpid() for pid, _ in _clients)

    @property
    def _payer(self) -> dict[str, str]:
        return {"RequestPayer": "requester"} if self.request_payer else {}

    def make_client(self) -> Any:
        """Returns boto3's client, for the process that lists."""
        import boto3
        from botocore.config import Config

        retries = {"mode": "standard", "total_max_attempts": 5}
        config = Config(connect_timeout=5, read_timeout=60, retries=retries, max_pool_connections=_LISTING_THREADS)
        session = boto3.Session()
        region = session.region_name or _ANY_REGION
        return session.client("s3", region_name=region, endpoint_url=self.endpoint_url, config=config)

    def _client(self) -> Any:
        import boto3
        from obstore.store import S3Store as Client

        session = boto3.Session()
        endpoint, region = self.endpoint_url, session.region_name or _ANY_REGION
        if endpoint is None:
            # A boto3 client takes a tenth of a second to make; here only it knows all settings and the bucket's region.
            listing = self.make_client()
            endpoint, region = listing.meta.endpoint_url, listing.meta.region_name
            if endpoint.endswith(".amazonaws.com"):
                region = listing.head_bucket(Bucket=self.bucket).get("BucketRegion", region)
                endpoint = None
        return Client(
            self.bucket,
            endpoint=endpoint,
            region=region,
            request_payer=self.request_payer,
            credential_provider=provider(session),  # type: ignore[arg-type]  # any callable will do
            **_REQUEST_LIMITS,
        )


async def _get(client: Any, path: str) -> bytes:
    import obstore

    result = await obstore.get_async(client, path)
    content = Content(await result.bytes_async(), (result.meta["e_tag"] or "").strip('"'))  # type: ignore[arg-type]
    if len(content) != result.meta["size"]:
        raise BusyError(f"{len(content)} of {result.meta['size']} bytes came")
    return content
