"""Features that the jobs of a sweep share in S3: the first job computes and uploads them, the others download them.

s3://BUCKET/PREFIX/KEY/train.npy, train.json    as on disk; train.json is uploaded last
s3://BUCKET/PREFIX/KEY/train.claim              id of the computing job, which renews it every few seconds
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from dogbreed.errors import UserError
from dogbreed.storage.s3 import S3Store

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
"""Seconds between two renewals of a claim."""

STALE_S = 90.0
"""Age in seconds at which a claim belongs to a dead job."""

SETTLE_S = 1.0
"""Seconds after which the last writer of a claim owns it; stores without conditional writes accept several writers."""

POLL_S = 2.0
"""Seconds between two polls for features that another job computes."""


class SharedFeatures:
    """The shared features of one content address `key` below `url`, which is `s3://bucket/prefix`.

    Raises:
        UserError: `url` is not an S3 URL.
    """

    def __init__(self, url: str, key: str, endpoint_url: str | None) -> None:
        if not url.startswith("s3://"):
            raise UserError(f"features.url={url}: give s3://BUCKET/PREFIX (a folder is features.folder)")
        store = S3Store.from_url(url, endpoint_url)
        self.url = url
        self._bucket, self._prefix = store.bucket, f"{store.prefix}{key}/"
        self._client: Any = store.boto_client()
        self._id = secrets.token_hex(8).encode()

    def fetch_or_claim(self, name: str, folder: Path) -> bool:
        """Returns True once `name` is downloaded into `folder`, False if this job has to compute it.

        Raises:
            UserError: The bucket is not readable or writable.
        """
        waiting = False
        with self._errors():
            while not self._fetch(name, folder):
                if self._claim(name):
                    return False
                if not waiting:
                    log.info("another job computes the features of %s: waiting for them in %s", name, self.url)
                waiting = True
                time.sleep(POLL_S)
        log.info("features of %s downloaded from %s", name, self.url)
        return True

    @contextmanager
    def computing(self, name: str, folder: Path) -> Iterator[None]:
        """Renews the claim during the block, then uploads `name` if `folder` has it; always deletes the claim."""
        ended = threading.Event()
        thread = threading.Thread(target=self._keep_alive, args=(name, ended), daemon=True)
        thread.start()
        try:
            yield
            with self._errors():
                for suffix in ("npy", "json") if (folder / f"{name}.json").exists() else ():
                    self._client.upload_file(str(folder / f"{name}.{suffix}"), self._bucket, self._object(name, suffix))
        finally:
            ended.set()
            thread.join()
            with self._errors():
                self._client.delete_object(Bucket=self._bucket, Key=self._object(name, "claim"))

    def _fetch(self, name: str, folder: Path) -> bool:
        if self._head(name, "json") is None:
            return False
        for suffix in ("npy", "json"):
            part = folder / f"{name}.{suffix}.part"
            self._client.download_file(self._bucket, self._object(name, suffix), str(part))
            part.replace(folder / f"{name}.{suffix}")
        return True

    def _claim(self, name: str) -> bool:
        """Returns whether this job owns the claim on `name`."""
        found = self._head(name, "claim")
        if found is not None:
            now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])  # the server's clock
            if (now - found["LastModified"]).total_seconds() < STALE_S:
                return False
            log.info("the job that computed the features of %s stopped renewing its claim: taking over", name)
        self._put(name)
        time.sleep(SETTLE_S)
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=self._object(name, "claim"))["Body"].read()
        except self._client.exceptions.NoSuchKey:  # another job claimed, computed and released it
            return False
        return bool(body == self._id)

    def _keep_alive(self, name: str, ended: threading.Event) -> None:
        while not ended.wait(HEARTBEAT_S):
            try:
                self._put(name)
            except (BotoCoreError, ClientError) as error:
                log.warning("renewing the claim on the features of %s failed: %s", name, error)

    def _put(self, name: str) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._object(name, "claim"), Body=self._id)

    def _head(self, name: str, suffix: str) -> Any:
        """Returns the metadata of an object, None if it does not exist."""
        try:
            return self._client.head_object(Bucket=self._bucket, Key=self._object(name, suffix))
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
                return None
            raise

    def _object(self, name: str, suffix: str) -> str:
        return f"{self._prefix}{name}.{suffix}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from boto3.exceptions import Boto3Error

        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"features.url={self.url}: {reason}; check the bucket, or omit features.url") from error
