"""An archive from an http(s) address, into a file: goes on where it stopped, in this run or in the next."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dogbreed.errors import UserError

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Before each new attempt; an attempt that brought something starts the count anew."""

Tell = Callable[[int, int | None], None]
"""Called with the bytes that are there, and how many there will be; None: the server does not say."""


class TransferError(Exception):
    """The network or a disk gave up; what was transferred stays, and the message says how to go on."""


@dataclass(frozen=True)
class _Version:
    """What the server says of the file: as long as it stays the same, parts of it fit together."""

    url: str
    tag: str
    """ETag, or the time of its last change; empty: parts cannot be told to fit together."""
    size: int | None
    """Bytes."""


class _Dropped(Exception):
    """The connection was lost, or the server is busy: asking again makes sense."""


def download(url: str, folder: Path, tell: Tell, pauses_s: tuple[float, ...] = PAUSES_S) -> Path:
    """Returns the file with the content of `url`; one that is there already, and unchanged, is not fetched again.

    Args:
        url: `https://` or `http://`.
        folder: Where it goes, under the name that the address ends in.
        tell: Hears of the progress.
        pauses_s: Seconds before each new attempt.

    Raises:
        UserError: no such address, or no room on the disk.
        TransferError: the connection was lost for good; what came is kept.
    """
    path = folder / (Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name or "download.zip")
    part, card = path.with_name(path.name + ".part"), path.with_name(path.name + ".json")
    folder.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch(url, path, part, card, tell)
            return path
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(f"{part} cannot be written: {error.strerror}") from error
            raise TransferError(f"the disk is full; what came is in {part}") from error
        except _Dropped as error:
            came = part.stat().st_size if part.exists() else 0
            failures = 0 if came > before else failures + 1
            if failures > len(pauses_s):
                raise TransferError(f"{url}: {error}; the {came / 1e6:.1f} MB that came are kept") from error
        time.sleep(pauses_s[max(failures - 1, 0)])


def _fetch(url: str, path: Path, part: Path, card: Path, tell: Tell) -> None:
    """Gets what is missing of the file into `part`, and makes it `path` once it is whole."""
    kept = _read_card(card)
    usable = kept is not None and kept.url == url and bool(kept.tag)
    whole = usable and path.exists()
    have = part.stat().st_size if usable and not whole and part.exists() else 0
    with _open(url, _headers(kept, whole, have)) as response:
        if response.status == http.client.NOT_MODIFIED:
            tell(path.stat().st_size, path.stat().st_size)
            return
        if response.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            if kept is None or have != kept.size:  # what is here is not the beginning of what is there
                part.unlink(missing_ok=True)
                raise _Dropped("the file has changed at the server")
        else:
            have = have if response.status == http.client.PARTIAL_CONTENT else 0
            size = _length(response, have)
            card.write_text(json.dumps(vars(_Version(url, _tag(response), size))))
            _check_room(part, size, have)
            have = _copy(response, part, have, size, tell)
            if size is not None and have < size:
                raise _Dropped(f"the connection was lost after {have:,} of {size:,} bytes")
    part.replace(path)


def _headers(kept: _Version | None, whole: bool, have: int) -> dict[str, str]:
    """Returns the headers that ask for the file only where it has changed, or for what is missing where it has not."""
    headers = {"User-Agent": "dogbreed", "Accept-Encoding": "identity"}
    if kept and whole:
        return headers | {"If-None-Match" if kept.tag.startswith('"') else "If-Modified-Since": kept.tag}
    return headers | ({"Range": f"bytes={have}-", "If-Range": kept.tag} if kept and have else {})


def _tag(response: Any) -> str:
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")  # a weak one holds for no parts


def _open(url: str, headers: dict[str, str]) -> Any:
    """Returns the response; also one that says that nothing is new, or nothing follows what is here."""
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code in (http.client.NOT_MODIFIED, http.client.REQUESTED_RANGE_NOT_SATISFIABLE):
            return error
        if error.code >= 500 or error.code == http.client.TOO_MANY_REQUESTS:
            raise _Dropped(f"the server says {error.code} {error.reason}") from error
        raise UserError(f"{url}: the server says {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, (ssl.SSLCertVerificationError, socket.gaierror)):
            raise UserError(f"{url}: {error.reason}") from error
        raise _Dropped(f"cannot be reached: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(f"cannot be reached: {error}") from error
    except ValueError as error:
        raise UserError(f"{url!r} is no address: {error}") from error


def _copy(response: Any, part: Path, have: int, size: int | None, tell: Tell) -> int:
    """Appends the response to `part` after its first `have` bytes; returns how many there are then."""
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        file.truncate()
        while True:
            try:
                chunk = response.read1(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise _Dropped(f"the connection was lost after {have:,} bytes: {error}") from error
            if not chunk:
                return have
            file.write(chunk)
            have += len(chunk)
            tell(have, size)


def _length(response: Any, offset: int) -> int | None:
    length = response.headers.get("Content-Length")
    return int(length) + offset if length and length.isdigit() else None


def _check_room(part: Path, size: int | None, have: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if size is not None and size - have > free:
        raise UserError(
            f"{part.parent} has room for {free / 1e6:,.0f} MB, the download needs {(size - have) / 1e6:,.0f} MB more"
        )


def _read_card(card: Path) -> _Version | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return _Version(**json.loads(card.read_text()))
    return None
