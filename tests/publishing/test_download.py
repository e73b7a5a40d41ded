"""Downloads from a real server that drops connections, changes its file, or is not what it should be."""

import datetime
import ipaddress
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dogbreed.errors import UserError
from dogbreed.publishing import download as module
from dogbreed.publishing.download import TransferError, download

CONTENT = bytes(range(256)) * 8192  # 2 MiB


class Handler(BaseHTTPRequestHandler):
    """Serves `server.content` with ranges; closes the connection after `server.cut` bytes where that is set."""

    def do_GET(self):
        server = self.server
        server.asked.append(dict(self.headers))
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
        server.sent += len(body)  # first: who has got it all may look at once
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.content, running.tag, running.status, running.ranges = CONTENT, '"v1"', 0, True
        running.cut, running.drops, running.sent, running.asked = 0, 0, 0, []
        running.handle_error = lambda *where: None  # a client that hangs up is what is tested
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def address(server, scheme="http"):
    return f"{scheme}://127.0.0.1:{server.server_port}/dog-project/dogImages.zip"


def get(server, folder, told=None, scheme="http"):
    seen = [] if told is None else told
    return download(address(server, scheme), folder, lambda *now: seen.append(now), pauses_s=(0.0, 0.0, 0.0))


def test_dropped_connections_are_taken_up_where_they_broke(server, tmp_path):
    server.cut, server.drops, told = 300_000, 6, []
    path = get(server, tmp_path, told)
    assert path == tmp_path / "dogImages.zip"
    assert path.read_bytes() == CONTENT
    assert server.sent == len(CONTENT)  # nothing came twice
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert not list(tmp_path.glob("*.part"))


def test_the_next_run_goes_on_where_this_one_gave_up(server, tmp_path):
    server.cut, server.drops = 700_000, 1
    broken = threading.Event()

    def pull_the_plug(have, size):
        if have == 700_000:
            server.status = 503
            broken.set()

    with pytest.raises(TransferError, match=r"503 .*; the 0.7 MB that came are kept"):
        download(address(server), tmp_path, pull_the_plug, pauses_s=(0.0,))
    assert broken.is_set()
    server.status = 0
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


def test_a_server_that_stays_away_is_given_up(server, tmp_path):
    server.status = 503
    with pytest.raises(TransferError, match="the server says 503 Service Unavailable"):
        get(server, tmp_path)
    assert len(server.asked) == 4


def test_a_whole_file_is_asked_for_only_if_changed(server, tmp_path):
    get(server, tmp_path)
    get(server, tmp_path)
    assert server.sent == len(CONTENT)
    server.content, server.tag = CONTENT[::-1], '"v2"'
    assert get(server, tmp_path).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("ranges", [True, False])
def test_parts_of_different_versions_are_never_joined(server, tmp_path, ranges):
    server.ranges = ranges
    (tmp_path / "dogImages.zip.part").write_bytes(b"x" * 1000)
    (tmp_path / "dogImages.zip.json").write_text(
        f'{{"url": "{address(server)}", "tag": "\\"v0\\"", "size": {len(CONTENT)}}}'
    )
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_no_such_file(server, tmp_path):
    server.status = 404
    with pytest.raises(UserError, match="the server says 404 Not Found"):
        get(server, tmp_path)


def test_no_room(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Disk", (), {"free": 1_000_000}))
    with pytest.raises(UserError, match="has room for 1 MB, the download needs 2 MB more"):
        get(server, tmp_path)


def test_nobody_there(tmp_path):
    with pytest.raises(TransferError, match=r"cannot be reached: .*refused"):
        download("http://127.0.0.1:1/x.zip", tmp_path, lambda *now: None, pauses_s=(0.0,))


def test_https_wants_a_certificate_that_can_be_trusted(server, tmp_path, monkeypatch):
    certificate = _self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with pytest.raises(UserError, match="certificate verify failed"):
        get(server, tmp_path, scheme="https")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert get(server, tmp_path, scheme="https").read_bytes() == CONTENT


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
