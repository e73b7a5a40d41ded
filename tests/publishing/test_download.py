"""Downloads from a server that drops connections, changes its file or fails."""

import datetime
import ipaddress
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dogbreed.errors import UserError
from dogbreed.publishing import disk
from dogbreed.publishing.disk import TransferError
from dogbreed.publishing.download import RETRIES, download

CONTENT = bytes(range(256)) * 8192  # 2 MiB

RETRIES_AT_ONCE = RETRIES.new(total=3, backoff_factor=0)


class Handler(BaseHTTPRequestHandler):
    """Serves `server.content` with ranges; closes the first `server.drops` connections after `server.cut` bytes."""

    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        if server.status:
            self.send_error(server.status)
            return
        if self.headers.get("If-None-Match") == server.tag:
            self.send_response(304)
            self.end_headers()
            return
        start, matches = 0, self.headers.get("If-Range") == server.tag
        if "Range" in self.headers and matches and server.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.send_header("ETag", server.tag)
        self.end_headers()
        body = server.content[start:]
        if server.cut and server.drops:
            server.drops -= 1
            body = body[: server.cut]
        server.sent += len(body)  # before the client has received everything and reads it
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.content, running.tag, running.status, running.ranges = CONTENT, '"v1"', 0, True
        running.cut, running.drops, running.sent, running.requests = 0, 0, 0, []
        running.handle_error = lambda *args: None  # clients that disconnect are expected
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def url_of(server, scheme="http"):
    return f"{scheme}://127.0.0.1:{server.server_port}/dog-project/dogImages.zip"


def get(server, folder, on_progress=lambda *done: None, scheme="http"):
    return download(url_of(server, scheme), folder, on_progress, RETRIES_AT_ONCE)


def test_download_after_dropped_connections_resumes(server, tmp_path):
    server.cut, server.drops, progress = 300_000, 6, []
    path = get(server, tmp_path, lambda *done: progress.append(done))
    assert path == tmp_path / "dogImages.zip"
    assert path.read_bytes() == CONTENT
    assert server.sent == len(CONTENT)  # no byte was sent twice
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert not list(tmp_path.glob("*.part"))


def test_download_in_the_next_run_resumes(server, tmp_path):
    server.cut, server.drops = 700_000, 1

    def fail(received, size):
        if received == 700_000:
            server.status = 503

    with pytest.raises(TransferError, match=r"503 .*; 0.7 MB are kept"):
        get(server, tmp_path, fail)
    server.status = 0
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


def test_download_gives_up_after_retries(server, tmp_path):
    server.status = 503
    with pytest.raises(TransferError, match=r"too many 503 error responses; 0.0 MB are kept"):
        get(server, tmp_path)
    assert len(server.requests) == 4


def test_download_of_unchanged_file_is_not_repeated(server, tmp_path):
    get(server, tmp_path)
    get(server, tmp_path)
    assert server.sent == len(CONTENT)
    server.content, server.tag = CONTENT[::-1], '"v2"'
    assert get(server, tmp_path).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("ranges", [True, False])
def test_download_of_changed_file_starts_again(server, tmp_path, ranges):
    server.ranges = ranges
    (tmp_path / "dogImages.zip.part").write_bytes(b"x" * 1000)
    (tmp_path / "dogImages.zip.json").write_text(
        f'{{"url": "{url_of(server)}", "tag": "\\"v0\\"", "size": {len(CONTENT)}}}'
    )
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_download_of_missing_file_is_an_error(server, tmp_path):
    server.status = 404
    with pytest.raises(UserError, match="the server returned 404 Not Found"):
        get(server, tmp_path)


def test_download_without_free_space_is_an_error(server, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: type("Disk", (), {"free": 1_000_000}))
    with pytest.raises(UserError, match="has 1 MB of free space, 2 MB are needed"):
        get(server, tmp_path)


def test_download_without_server_is_a_transfer_error(tmp_path):
    with pytest.raises(TransferError, match=r"127.0.0.1:1/x.zip: .*refused"):
        download("http://127.0.0.1:1/x.zip", tmp_path, lambda *done: None, RETRIES_AT_ONCE)


def test_download_needs_a_trusted_certificate(server, tmp_path, monkeypatch):
    certificate = _self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with pytest.raises(UserError, match="certificate verify failed"):
        get(server, tmp_path, scheme="https")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert get(server, tmp_path, scheme="https").read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["http://", "http://[x/a.zip", "https://host:port/a.zip"])
def test_download_of_invalid_url_is_an_error(tmp_path, url):
    with pytest.raises(UserError, match="not a valid URL"):
        download(url, tmp_path, lambda *done: None, RETRIES_AT_ONCE)


def test_download_uses_the_proxy_of_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    assert download("http://host.invalid/a.zip", tmp_path, lambda *done: None).read_bytes() == CONTENT


def _self_signed(folder):
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(private + certificate.public_bytes(pem))
    return path
