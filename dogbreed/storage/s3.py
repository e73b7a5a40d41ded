"""Objects in an S3 bucket or on any S3-compatible server.

boto3 lists and resolves credentials (environment, profile, role); obstore, which runs requests in Rust, fetches
objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dogbreed.errors import UserError
from dogbreed.storage.base import ImageError, ObjectBody, ObjectInfo, TransientError, UnreachableError
from dogbreed.storage.credentials import advice, credential_provider, first_line, user_errors
from dogbreed.storage.s3_listing import NUM_THREADS, S3Lister

_CLIENT_OPTIONS: dict[str, Any] = {
    "client_options": {"allow_http": True, "connect_timeout": "5s", "timeout": "120s"},
    # `RetryingFetcher` retries instead: obstore's own retries do not cover truncated bodies.
    "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=120)},
}

_DEFAULT_REGION = "us-east-1"
"""Signing needs a region; servers other than AWS accept any."""

EXPIRED_CREDENTIALS = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed")
"""Error codes of S3's status 400 responses to credentials that are no longer valid."""

_THROTTLED = (" 503 ", " 429 ", "SlowDown")
"""Parts of obstore's messages when the server throttles."""

_clients: dict[tuple[int, S3Store], Any] = {}
"""obstore clients by process id and store: their Rust threads do not survive a fork, so an inherited client hangs."""

_answered: set[tuple[int, S3Store]] = set()
"""Process ids and stores that have returned an object: a denied request then concerns one object alone."""


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
        """Returns the store for `s3://bucket/prefix`; the prefix is used literally, including `#` and `%`.

        Raises:
            UserError: the URL has no bucket, or `endpoint_url` does not start with http:// or https://.
        """
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise UserError(f"data.url={url!r} has no bucket; type s3://bucket/prefix")
        if endpoint_url is not None and not endpoint_url.startswith(("http://", "https://")):
            raise UserError(f"data.endpoint_url={endpoint_url!r}: type http://HOST:PORT or https://HOST")
        prefix = prefix.strip("/")
        return cls(url, bucket, f"{prefix}/" if prefix else "", endpoint_url, request_payer)

    def list_objects(self) -> Iterator[ObjectInfo]:
        """Yields the objects below the prefix."""
        return self.lister().list_objects()

    def read(self, key: str) -> bytes | None:
        """Returns an object's content, or None if it does not exist; through boto3, which leaves forking safe."""
        return self.lister().read(key)

    async def fetch(self, key: str) -> ObjectBody:
        """Returns an object's content.

        A refused request may mean that the credentials have expired or were rotated, so it is repeated once with
        a new client.
        """
        from obstore.exceptions import BaseError, GenericError

        refused_client = None
        while True:
            client = self._current_client(key, refused_client)
            try:
                body = await _get(client, self.prefix + key)
                _answered.add((os.getpid(), self))
                return body
            except ValueError as error:  # S3 allows keys such as a//b.jpg, which obstore cannot request
                raise ImageError(f"its key has an empty or unusual part, rename it ({first_line(error)})") from error
            except FileNotFoundError as error:
                raise UnreachableError("no longer in the bucket") from error
            except BaseError as error:
                refused = not isinstance(error, GenericError) or any(code in str(error) for code in EXPIRED_CREDENTIALS)
                if not refused:
                    reason = first_line(error)
                    raise TransientError(reason, any(code in reason for code in _THROTTLED)) from error
                if "InvalidObjectState" in str(error):
                    raise UnreachableError("archived in S3 Glacier: restore it first") from error
                if refused_client is not None and "AccessDenied" in str(error) and (os.getpid(), self) in _answered:
                    raise UnreachableError("access to this object is denied") from error
                if refused_client is not None:
                    raise UserError(f"{self._full_url(key)} cannot be read: {advice(error)}") from error
            refused_client = client

    def _current_client(self, key: str, refused_client: Any) -> Any:
        """Returns this process's client; a new one if there is none yet or if the current one was refused."""
        process = (os.getpid(), self)
        if (client := _clients.get(process)) is None or client is refused_client:
            with user_errors(f"{self._full_url(key)} cannot be read"):
                client = _clients[process] = self.object_client()
        return client

    def _full_url(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"

    def fork_is_safe(self) -> bool:
        """Returns whether this process has not created an obstore client, whose threads a fork would lose."""
        return not any(pid == os.getpid() for pid, _ in _clients)

    def lister(self) -> S3Lister:
        """Returns a lister with its own boto3 client.

        Raises:
            UserError: no client can be created, such as for an unknown profile.
        """
        with user_errors(f"data.url={self.url!r} cannot be listed"):
            client = self.boto_client()
        return S3Lister(client, self.bucket, self.prefix, request_payer=self.request_payer)

    def boto_client(self) -> Any:
        """Returns a new boto3 client; creating one takes about 0.1 s."""
        import boto3
        from botocore.config import Config

        retries = {"mode": "standard", "total_max_attempts": 5}
        config = Config(connect_timeout=5, read_timeout=60, retries=retries, max_pool_connections=NUM_THREADS)
        session = boto3.Session()
        region = session.region_name or _DEFAULT_REGION
        return session.client("s3", region_name=region, endpoint_url=self.endpoint_url, config=config)

    def object_client(self) -> Any:
        """Returns a new obstore client, which makes forking this process unsafe."""
        import boto3
        from obstore.store import S3Store as Client

        session = boto3.Session()
        endpoint, region = self.endpoint_url, session.region_name or _DEFAULT_REGION
        if endpoint is None:
            # Only a boto3 client resolves all endpoint settings and the bucket's region.
            boto = self.boto_client()
            endpoint, region = boto.meta.endpoint_url, boto.meta.region_name
            if endpoint.endswith(".amazonaws.com"):
                region = boto.head_bucket(Bucket=self.bucket).get("BucketRegion", region)
                endpoint = None
        return Client(
            self.bucket,
            endpoint=endpoint,
            region=region,
            request_payer=self.request_payer,
            credential_provider=credential_provider(session),  # type: ignore[arg-type]  # obstore accepts any callable
            **_CLIENT_OPTIONS,
        )


async def _get(client: Any, path: str) -> ObjectBody:
    import obstore

    result = await obstore.get_async(client, path)
    data, meta = memoryview(await result.bytes_async()), result.meta
    if len(data) != meta["size"]:
        raise TransientError(f"truncated: {len(data)} of {meta['size']} bytes")
    return ObjectBody(data, (meta["e_tag"] or "").strip('"'))
