"""Objects of an S3 bucket, or of any server that speaks S3.

boto3 lists and finds credentials (environment, profile, role); obstore, whose requests run in Rust, gets the objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dogbreed.errors import UserError
from dogbreed.storage.base import BusyError, ObjectBody, ObjectInfo, UnreachableError
from dogbreed.storage.credentials import advice, first_line, provider
from dogbreed.storage.s3_listing import THREADS, Lister

_REQUEST_LIMITS: dict[str, Any] = {
    "client_options": {"allow_http": True, "connect_timeout": "5s", "timeout": "120s"},
    "retry_config": {
        "max_retries": 0,
        "retry_timeout": timedelta(seconds=120),
    },  # `RetryingFetcher` does it, for bodies too
}

_ANY_REGION = "us-east-1"
"""Servers other than AWS take any, but there has to be one to sign with."""

RUN_OUT = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed")
"""What S3 says with status 400 where credentials are not taken any more."""

_OVERLOADED = (" 503 ", " 429 ", "SlowDown")
"""What S3 says where it is asked for too much."""

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

    def entries(self) -> Iterator[ObjectInfo]:
        """Yields the objects below the prefix."""
        return Lister(self).entries()

    def read(self, key: str) -> bytes | None:
        """Returns an object's content, or None where there is none; by boto3, so that workers can still be forked."""
        return Lister(self).read(key)

    async def fetch(self, key: str) -> ObjectBody:
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
                raise UnreachableError("not in the bucket any more") from error
            except BaseError as error:
                refused = not isinstance(error, GenericError) or any(code in str(error) for code in RUN_OUT)
                if not refused:
                    reason = first_line(error)
                    raise BusyError(reason, any(code in reason for code in _OVERLOADED)) from error
                if refused_client is not None:
                    raise UserError(f"s3://{self.bucket}/{self.prefix}{key} cannot be read: {advice(error)}") from error
            refused_client = client

    def _current_client(self, key: str, refused_client: Any) -> Any:
        """Returns this process's client: a new one where there is none, or only the one that was refused."""
        from botocore.exceptions import BotoCoreError, ClientError

        place = (os.getpid(), self)
        if (client := _clients.get(place)) is None or client is refused_client:
            try:
                client = _clients[place] = self._client()
            except (BotoCoreError, ClientError) as error:
                raise UserError(f"s3://{self.bucket}/{self.prefix}{key} cannot be read: {advice(error)}") from error
        return client

    def fork_is_safe(self) -> bool:
        """Returns whether no obstore client, whose threads a fork would lose, was made in this process yet."""
        return not any(pid == os.getpid() for pid, _ in _clients)

    @property
    def payer(self) -> dict[str, str]:
        """What boto3's calls take besides."""
        return {"RequestPayer": "requester"} if self.request_payer else {}

    def make_client(self) -> Any:
        """Returns boto3's client, for the process that lists."""
        import boto3
        from botocore.config import Config

        retries = {"mode": "standard", "total_max_attempts": 5}
        config = Config(connect_timeout=5, read_timeout=60, retries=retries, max_pool_connections=THREADS)
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


async def _get(client: Any, path: str) -> ObjectBody:
    import obstore

    result = await obstore.get_async(client, path)
    data, meta = memoryview(await result.bytes_async()), result.meta
    if len(data) != meta["size"]:
        raise BusyError(f"{len(data)} of {meta['size']} bytes came")
    return ObjectBody(data, (meta["e_tag"] or "").strip('"'))
