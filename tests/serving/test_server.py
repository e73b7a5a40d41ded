"""Start-up of the local server."""

import socket
import subprocess
import sys

from dogbreed.serving.server import listen
from tests.paths import ROOT


def test_server_missing_model_ends_with_one_line(tmp_path):
    command = [sys.executable, "-m", "dogbreed.serving.server", "--model-dir", f"{tmp_path}/no"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    expected = f"error: model folder {tmp_path}/no does not exist: a training writes one to outputs/NAME/model\n"
    assert done.stderr == expected


def test_listen_sets_tcp_nodelay():
    """Nagle's algorithm would delay every response on an open connection by 40 ms."""
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert client.getpeername() == connection.getsockname()
