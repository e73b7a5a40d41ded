"""Objects under a URL: a folder, an S3 prefix or a generated data set."""

from __future__ import annotations

import re
import urllib.parse
import urllib.request
from pathlib import Path

from dogbreed.errors import UserError
from dogbreed.storage.base import Store


def open_store(url: str, endpoint_url: str | None = None, request_payer: bool = False) -> Store:
    """Returns the store for `url`: a folder path, `file://`, `s3://bucket/prefix` or `demo://`.

    Args:
        url: Location of the objects; not read or listed yet.
        endpoint_url: Server of an S3-compatible store, `http://` is allowed; None: AWS, or boto3's own settings.
        request_payer: The requester pays, as requester-pays buckets demand.

    Raises:
        UserError: another kind of URL, or an S3 setting for a store that is not in S3.
    """
    # Imported here, so that a folder of images needs neither boto3 nor obstore.
    _check_spelling(str(url))
    scheme, separator, _ = str(url).partition("://")
    if scheme == "s3" and separator:
        from dogbreed.storage.s3 import S3Store

        return S3Store.from_url(url, endpoint_url, request_payer)
    if endpoint_url is not None:
        raise UserError(f"data.endpoint_url={endpoint_url} needs data.url=s3://bucket/prefix, not {url!r}")
    if request_payer:
        raise UserError(f"data.request_payer=true needs data.url=s3://bucket/prefix, not {url!r}")
    if scheme == "demo" and separator:
        from dogbreed.storage.demo import DemoStore

        return DemoStore.from_url(url)
    from dogbreed.storage.local import FolderStore

    if scheme == "file" and separator:
        return FolderStore(url, Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path)))
    if separator:
        raise UserError(
            f"data.url={url!r}: {scheme}:// is not supported; "
            "allowed: a folder path, file:///path, s3://bucket/prefix, demo://"
        )
    return FolderStore(str(url), Path(url).expanduser())


_S3_SPELLINGS = (
    r"(?i:s3[an]?)://(?P<bucket>[^/]*)/?(?P<prefix>.*)",
    r"(?i:https?)://(?P<bucket>[^/]+)\.s3[.-][^/]*amazonaws\.com/?(?P<prefix>.*)",
    r"(?i:https?)://s3[.-][^/]*amazonaws\.com/(?P<bucket>[^/]+)/?(?P<prefix>.*)",
    r"(?P<bucket>arn:aws[a-z-]*:s3:[^/]+/[^/]+)/?(?P<prefix>.*)",
)
"""Other ways to write the address of objects in S3, as regular expressions."""


def _check_spelling(url: str) -> None:
    """Checks that an address in S3 starts with s3://.

    Raises:
        UserError: it is spelled in another way; the message has the right one.
    """
    if url.startswith("s3://"):
        return
    for pattern in _S3_SPELLINGS:
        if found := re.fullmatch(pattern, url):
            raise UserError(f"data.url={url!r}: type data.url=s3://{found['bucket']}/{found['prefix']}".rstrip("/"))
