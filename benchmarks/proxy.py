"""A proxy before an S3 server that injects delays and faults; signatures stay valid."""

from __future__ import annotations

import asyncio
import random
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable

Rule = Callable[[str, int], str | None]
"""Path of a GET for an object and the number of earlier requests for it, to a fault or None.

`503`: the server throttles. `403`: the token has expired. `404`: the object is gone. `cut`: the connection
closes in the middle of the body. `stall`: half of the body, then nothing for a minute. `mute`: no response for a
minute. `reset`: the connection is closed instead of a response.
"""

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_STATUS = {
    "503": b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b",
    "403": b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b",
    "404": b"HTTP/1.1 404 Not Found\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b",
}
_CODES = {"503": b"SlowDown", "403": b"ExpiredToken", "404": b"NoSuchKey"}
_SILENCE_S = 60.0


def fail_share(share: float, kind: str, seed: int = 0) -> Rule:
    """Returns a rule by which a random share of the requests has the fault `kind`."""
    chance = random.Random(seed)
    return lambda path, before: kind if chance.random() < share else None


class Proxy(threading.Thread):
    """Listens on a free port of this machine in a separate thread, until `close`.

    Args:
        upstream: URL of the S3 server.
        delay_s: Seconds added before each response.
        rule: Selects the fault of each request.

    Attributes:
        url: URL of the proxy.
        gets: Path of every GET for an object so far, in order of arrival.
        lists: Path of every listing.
        heads: First line and headers of every request.
        open_requests: Number of open requests.
        most_open: Largest number of open requests so far.
    """

    def __init__(self, upstream: str, delay_s: float = 0.0, rule: Rule | None = None) -> None:
        super().__init__(name="proxy", daemon=True)
        parts = urllib.parse.urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self.delay_s, self.rule = delay_s, rule
        self.gets: list[str] = []
        self.lists: list[str] = []
        self.heads: list[bytes] = []
        self.open_requests = self.most_open = 0
        self._asked: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.start()
        self._ready.wait()

    def run(self) -> None:
        """Serves."""
        self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def close(self) -> None:
        """Stops the proxy and closes every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join()

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024, limit=2**20)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards the requests of one connection over one connection to the server."""
        behind = None
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_length(head))
                if behind is None:
                    behind = await asyncio.open_connection(*self._upstream, limit=2**20)
                self.open_requests += 1
                self.most_open = max(self.most_open, self.open_requests)
                try:
                    await self._answer(head, body, behind, writer)
                finally:
                    self.open_requests -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # either side has closed the connection, or asks to close it
        finally:
            writer.close()
            if behind:
                behind[1].close()

    async def _answer(
        self,
        head: bytes,
        body: bytes,
        behind: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        client: asyncio.StreamWriter,
    ) -> None:
        method, path = head.split(b" ", 2)[:2]
        self.heads.append(head)
        if b"list-type" in path:
            self.lists.append(path.decode())
        fault = self._note(path.decode()) if method == b"GET" and b"?" not in path else None
        await asyncio.sleep(_SILENCE_S if fault == "mute" else self.delay_s)
        if fault in _STATUS:
            text = b"<Error><Code>%b</Code><Message>injected</Message></Error>" % _CODES[fault]
            client.write(_STATUS[fault] % (len(text), text))
            return await client.drain()
        if fault == "reset":
            raise ConnectionError
        reader, writer = behind
        writer.write(head + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        client.write(answer)
        if b"chunked" in answer.lower():
            await self._chunks(reader, client)
            return await client.drain()
        content = await reader.readexactly(0 if method == b"HEAD" or b" 304 " in answer[:20] else _length(answer))
        if fault in ("cut", "stall"):
            client.write(content[: len(content) // 2])
            await client.drain()
            await asyncio.sleep(_SILENCE_S if fault == "stall" else 0)
            raise ConnectionError
        client.write(content)
        await client.drain()

    async def _chunks(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        size = 1
        while size:
            line = await reader.readline()
            size = int(line, 16)
            client.write(line + await reader.readexactly(size + 2))

    def _note(self, path: str) -> str | None:
        self.gets.append(path)
        before = self._asked[path]
        self._asked[path] += 1
        return self.rule(path, before) if self.rule else None


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
