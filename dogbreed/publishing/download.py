"""Downloads an archive over HTTP; an interrupted download is resumed."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, MaxRetryError, ProtocolError, SSLError, TimeoutError

from dogbreed.errors import UserError
from dogbreed.publishing.disk import TransferError, check_free_space, write_error

CHUNK_BYTES = 1 << 16

RETRIES = urllib3.Retry(
    total=5,
    other=0,  # such as an invalid certificate
    backoff_factor=0.5,
    status_forcelist=(429, 500, 502, 503, 504),
    respect_retry_after_header=False,  # it may ask for hours
)
"""Retries of one request; an attempt that received data resets them."""

OnProgress = Callable[[int, int | None], None]
"""Called with the number of items (or bytes) done and their total; None: unknown."""


@dataclass(frozen=True)
class _Version:
    """The version of a file that a partial download belongs to."""

    url: str
    tag: str
    """Strong ETag or Last-Modified; empty: a partial download cannot be resumed."""
    size: int | None
    """Bytes."""


def download(url: str, folder: Path, on_progress: OnProgress, retries: urllib3.Retry = RETRIES) -> Path:
    """Returns the downloaded file; a complete one that has not changed on the server is not downloaded again.

    Args:
        url: `https://` or `http://`.
        folder: Folder of the download, which is named like the last part of the URL.
        on_progress: Called with bytes received and in total.
        retries: Retries of a request.

    Raises:
        UserError: The URL is invalid or refused, or the disk has too little free space.
        TransferError: The connection failed or the disk is full; the part received so far is kept.
    """
    try:
        path = folder / (Path(unquote(urlsplit(url).path)).name or "download.zip")
    except ValueError as error:
        raise UserError(f"{url!r} is not a valid URL: {error}") from error
    part = path.with_name(path.name + ".part")
    remaining = retries
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _pool(url) as pool:
            while True:
                received = _size(part)
                try:
                    _fetch(pool, url, path, remaining, on_progress)
                    return path
                except (ProtocolError, TimeoutError) as error:  # while the body was read
                    remaining = retries if _size(part) > received else remaining
                    remaining = remaining.increment("GET", url, error=error)
                    remaining.sleep()
    except OSError as error:
        raise write_error(part, error) from error
    except MaxRetryError as error:
        if isinstance(error.reason, SSLError):
            raise UserError(f"{url}: {error.reason}") from error
        raise TransferError(f"{url}: {error.reason}; {_size(part) / 1e6:.1f} MB are kept") from error
    except LocationValueError as error:
        raise UserError(f"{url!r} is not a valid URL: {error}") from error
    except HTTPError as error:
        raise TransferError(f"{url}: {error}; {_size(part) / 1e6:.1f} MB are kept") from error


def _pool(url: str) -> urllib3.PoolManager:
    """Returns connections that use the proxy of the environment."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy is None or urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.PoolManager(timeout=30)
    return urllib3.ProxyManager(proxy, timeout=30)


def _fetch(pool: urllib3.PoolManager, url: str, path: Path, retries: urllib3.Retry, on_progress: OnProgress) -> None:
    """Downloads the missing bytes to `PATH.part` and renames it to `path` when it is complete."""
    part, version_file = path.with_name(path.name + ".part"), path.with_name(path.name + ".json")
    version = _read_version(version_file)
    is_known = version is not None and version.url == url and bool(version.tag)
    is_complete = is_known and path.exists()
    received = _size(part) if is_known and not is_complete else 0
    headers = {"User-Agent": "dogbreed", "Accept-Encoding": "identity"}
    if version and is_complete:
        headers["If-None-Match" if version.tag.startswith('"') else "If-Modified-Since"] = version.tag
    elif version and received:
        headers |= {"Range": f"bytes={received}-", "If-Range": version.tag}
    response = pool.request("GET", url, headers=headers, retries=retries, preload_content=False)
    with contextlib.closing(response):
        if response.status == HTTPStatus.NOT_MODIFIED:
            on_progress(_size(path), _size(path))
            return
        if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if version is None or received != version.size:
                part.unlink(missing_ok=True)
                raise ProtocolError("the file has changed on the server")
        elif response.status >= 400:
            raise UserError(f"{url}: the server returned {response.status} {response.reason}")
        else:
            received = received if response.status == HTTPStatus.PARTIAL_CONTENT else 0
            length = response.headers.get("Content-Length")
            size = received + int(length) if length else None
            version_file.write_text(json.dumps(asdict(_Version(url, _tag(response), size))))
            check_free_space(part.parent, (size or received) - received)
            with part.open("r+b" if received else "wb") as file:
                file.seek(received)
                file.truncate()
                for chunk in response.stream(CHUNK_BYTES, decode_content=False):
                    file.write(chunk)
                    on_progress(file.tell(), size)
    part.replace(path)


def _tag(response: urllib3.BaseHTTPResponse) -> str:
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")  # ranges need a strong ETag


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_version(path: Path) -> _Version | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return _Version(**json.loads(path.read_text()))
    return None
