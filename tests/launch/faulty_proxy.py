"""An HTTP proxy in front of AWS's stand-ins that loses answers, repeats requests, throttles and times out."""

import http.client
import re
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LOST, REPEATED, THROTTLED, TIMEOUT = "answer lost", "request repeated", "throttled", "timed out before the request"
FAULTS = (LOST, REPEATED, THROTTLED, TIMEOUT)
_BUSY_XML = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_BUSY_JSON = b'{"__type": "ThrottlingException", "message": "Rate exceeded"}'


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to `upstream`; the first request of each operation in `faults` meets that fault.

    Attributes:
        forwarded: Operations that reached the upstream, in order.
    """

    daemon_threads = True

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults = {}
        self.forwarded = deque()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        operation = self._operation()
        fault = self.server.faults.pop(operation, None)
        self.close_connection = True
        if fault == TIMEOUT:
            return
        if fault == THROTTLED:
            s3 = "X-Amz-Target" not in self.headers
            self._reply(503 if s3 else 400, {}, _BUSY_XML if s3 else _BUSY_JSON)
            return
        response = self._forward(operation, body)
        if fault == REPEATED:
            response = self._forward(operation, body)
        if fault != LOST:
            self._reply(*response)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def _operation(self):
        if target := self.headers.get("X-Amz-Target"):
            return target.rpartition(".")[2]
        path = urlsplit(self.path).path
        if self.command == "PUT":
            return "PutObject" if re.fullmatch(r"/[^/]+/.+", path) else "CreateBucket"
        return f"{self.command} {path}"

    def _forward(self, operation, body):
        self.server.forwarded.append(operation)
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
        connection.request(self.command, self.path, body, {**headers, "Host": self.server.upstream})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, dict(response.getheaders()), content

    def _reply(self, status, headers, content):
        self.send_response_only(status)
        skipped = ("transfer-encoding", "content-length", "connection")
        for key, value in headers.items():
            if key.lower() not in skipped:
                self.send_header(key, value)
        head = self.command == "HEAD"
        length = headers.get("Content-Length", headers.get("content-length", "0")) if head else str(len(content))
        self.send_header("Content-Length", length)
        self.send_header("Connection", "close")
        self.end_headers()
        if not head:
            self.wfile.write(content)
