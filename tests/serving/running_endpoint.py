"""A small model folder, and an endpoint serving it in a separate process."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import NamedTuple

from tests.paths import ROOT

CLASSES = ["001.Affenpinscher", "069.French_bulldog", 'a, "b"']


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class RunningEndpoint(NamedTuple):
    process: subprocess.Popen
    port: int

    def request(self, method, path, body=None, **headers):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        response = connection.getresponse()
        headers = {key.lower(): value for key, value in response.getheaders()}
        answer = Response(response.status, headers, response.read())
        connection.close()
        return answer

    def invoke(self, body, content_type="image/jpeg", **headers):
        return self.request("POST", "/invocations", body, Content_Type=content_type, **headers)


@contextmanager
def run_endpoint(folder, tmp_path, *program, **environ):
    """Runs the server, or `program` instead, until the block ends."""
    ready = tmp_path / "ready.json"
    ready.unlink(missing_ok=True)
    command = [sys.executable, *(program or ("-m", "dogbreed.serving.server"))]
    process = subprocess.Popen(
        [*command, "--model-dir", str(folder), "--ready-file", str(ready)], cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environ, stderr=(tmp_path / "stderr").open("wb"),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not ready.exists():
            assert process.poll() is None, (tmp_path / "stderr").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        written = json.loads(ready.read_text())
        assert written["pid"] == process.pid
        yield RunningEndpoint(process, written["port"])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(30)


def make_model(folder, classes=CLASSES):
    """Writes the model folder of a small random network whose outputs differ between images."""
    import torch

    from dogbreed.models.backbones import create, input_spec
    from dogbreed.serving.bundle import make_card, write_model

    torch.manual_seed(3)
    net = create("test_resnet", len(classes), "random", {}).eval()
    torch.nn.init.normal_(net.get_classifier().weight, std=3.0)
    card = make_card(
        name="small", architecture="test_resnet", model_kwargs={}, classes=list(classes),
        input_spec=input_spec(net), metrics={"val/accuracy": 0.5, "x": float("nan")},
        overrides=["model=timm", "model.name=test_resnet"],
    )  # fmt: skip
    write_model(folder, net.state_dict(), card)
    return folder
