"""The endpoint over HTTP: a real process, real requests."""

import asyncio
import base64
import csv
import errno
import gc
import io
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress

import numpy as np
import pytest
from starlette.requests import Request

from dogbreed.errors import UserError
from dogbreed.serving.app import Endpoint
from dogbreed.serving.classifier import Classifier
from dogbreed.serving.images import RequestError, read_image
from dogbreed.serving.server import listen
from dogbreed.serving.settings import Settings
from tests.paths import ROOT
from tests.serving.endpoints import CLASSES, serving
from tests.serving.sample_images import as_json, encoded, forms, jpeg, png_of_size, scene


@pytest.fixture(scope="module")
def expected(model_folder):
    """The probabilities of `jpeg()`, worked out without a server."""
    model = Classifier(model_folder)
    return model(read_image(jpeg(), model.card.input_spec)[None])[0]


def test_a_raw_image_is_answered_with_its_class_and_the_top_ones(endpoint, expected):
    answer = endpoint.invoke(jpeg())
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    order = np.argsort(-expected).tolist()
    top = [(entry["label"], entry["class_name"]) for entry in answer.json["top_k"]]
    names = {0: ("001", "Affenpinscher"), 1: ("069", "French_bulldog"), 2: (CLASSES[2], CLASSES[2])}
    assert top == [names[index] for index in order]
    assert (answer.json["predicted_label"], answer.json["class_name"]) == names[order[0]]
    confidences = [entry["confidence"] for entry in answer.json["top_k"]]
    assert confidences == pytest.approx([expected[index] for index in order], abs=1e-4)
    assert answer.json["confidence"] == confidences[0]


@pytest.mark.parametrize("form", ["png", "webp", "turned", "cmyk", "animated webp"])
def test_each_form_is_answered(endpoint, form):
    answer = endpoint.invoke(forms()[form], "application/x-image")
    assert answer.status == 200 and answer.json["predicted_label"] in ("001", "069", CLASSES[2])


def test_json_csv_and_numpy_say_the_same(endpoint, expected):
    body = json.dumps({"image": base64.b64encode(jpeg()).decode()})
    one = endpoint.invoke(body, "application/json; charset=utf-8").json
    assert one == endpoint.invoke(jpeg()).json
    several = as_json(jpeg(), encoded(scene(), "PNG"))
    both = endpoint.invoke(several, "application/json", Accept="application/*;q=0.9").json["predictions"]
    assert len(both) == 2 and both[0]["predicted_label"] == one["predicted_label"]
    table = endpoint.invoke(several, "application/json", Accept="image/png, text/csv")
    assert table.headers["content-type"].startswith("text/csv")
    rows = list(csv.reader(io.StringIO(table.body.decode())))
    assert rows[0][:2] == [one["predicted_label"], one["class_name"]] and len(rows) == 2
    array = endpoint.invoke(several, "application/json", Accept="application/x-npy")
    probabilities = np.load(io.BytesIO(array.body), allow_pickle=False)
    assert probabilities.shape == (2, 3) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("status", "reason", "body", "headers"),
    [
        (415, "'text/html'; allowed: image/jpeg", b"x", {"Content_Type": "text/html"}),
        (400, "not a readable image", b"hello", {}),
        (400, "Premature end", jpeg()[:-900], {}),
        (400, "empty", b"", {}),
        (400, "must be", b"{}", {"Content_Type": "application/json"}),
        (413, "67,000,000 bytes; at most", b"", {"Content_Length": "67000000"}),
        (413, "Image size (3600000000 pixels)", png_of_size(60000, 60000), {}),
        (406, "possible: application/json, text/csv, application/x-npy", jpeg(), {"Accept": "text/html"}),
    ],
)
def test_a_request_that_can_not_be_answered_says_why(endpoint, status, reason, body, headers):
    answer = endpoint.ask("POST", "/invocations", body, **({"Content_Type": "image/jpeg"} | headers))
    assert answer.status == status and reason in answer.json["error"]
    assert endpoint.ask("GET", "/ping").status == 200


def test_a_body_that_grows_too_large_is_cut_off_and_a_client_that_goes_away_harms_nobody(endpoint):
    def chunks():
        for _ in range(30):
            yield bytes(2**20)

    with suppress(BrokenPipeError, ConnectionResetError):  # the rest is not read
        assert endpoint.ask("POST", "/invocations", chunks(), Content_Type="image/jpeg").status == 413
    with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
        client.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nabc"
        )
    assert endpoint.ask("GET", "/nothing").json == {"error": "Not Found"}
    assert endpoint.ask("GET", "/invocations").status == 405
    assert endpoint.invoke(jpeg()).status == 200


@pytest.mark.parametrize(("status", "limit", "value"), [(413, "MAX_BODY_BYTES", 5), (408, "BODY_S", 0)])
def test_a_body_that_is_not_read_to_its_end_leaves_nothing_in_the_log(
    model_folder, monkeypatch, caplog, status, limit, value
):
    monkeypatch.setattr(f"dogbreed.serving.app.{limit}", value)
    endpoint = Endpoint(Classifier(model_folder), Settings())

    async def receive():
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"abc", "more_body": True}

    async def ask():
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        with pytest.raises(RequestError) as refused:
            await endpoint.invocations(request)
        return refused.value.status

    assert asyncio.run(ask()) == status
    gc.collect()
    assert "Traceback" not in caplog.text and endpoint._held_bytes == 0
    endpoint.close()


def test_the_page_is_one_file_that_asks_nobody_else(endpoint):
    answer = endpoint.ask("GET", "/")
    page = answer.body.decode()
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/html")
    assert "<h1>small</h1>" in page and "test_resnet, 3 classes" in page
    assert "http:" not in page and "https:" not in page and "//cdn" not in page


def test_many_clients_get_their_own_answers(endpoint):
    images = [jpeg(scene().rotate(15 * turn)) for turn in range(12)]
    alone = [endpoint.invoke(content).json["top_k"] for content in images]
    with ThreadPoolExecutor(12) as clients:
        together = list(clients.map(lambda content: endpoint.invoke(content).json["top_k"], images * 3))
    for found, wanted in zip(together, alone * 3, strict=True):
        assert {e["label"]: e["confidence"] for e in found} == pytest.approx(
            {e["label"]: e["confidence"] for e in wanted}, abs=1e-3
        )


SLOW = """
import os, sys, threading, time
from dogbreed.errors import UserError
from dogbreed.serving.app import Endpoint
from dogbreed.serving.classifier import Classifier
from dogbreed.serving import server
answer, start = Classifier.__call__, time.monotonic()
def slowly(self, pixels):
    if "MainThread" != threading.current_thread().name:
        while not os.path.exists(os.environ["GATE"]): time.sleep(0.01)
    return answer(self, pixels)
Classifier.__call__ = slowly
sys.exit(server.main(sys.argv[1:]))
"""
"""The server with a network that answers once there is the file that GATE names."""


def is_refused(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_more_than_can_wait_is_refused_at_once_and_sigterm_lets_the_rest_end(model_folder, tmp_path):
    gate = tmp_path / "gate"
    settings = {"DOGBREED_MAX_WAITING": "3", "DOGBREED_ANSWER": "index", "GATE": str(gate)}
    with serving(model_folder, tmp_path, "-c", SLOW, **settings) as endpoint, ThreadPoolExecutor(8) as clients:
        try:
            asked = [clients.submit(endpoint.invoke, jpeg()) for _ in range(6)]
            refused = [future.result() for future in itertools.islice(as_completed(asked, 60), 3)]
            assert [answer.status for answer in refused] == [503] * 3
            assert refused[0].headers["retry-after"] == "1" and "3 images are waiting" in refused[0].json["error"]
            running = [future for future in asked if not future.done()]
            assert len(running) == 3
            assert endpoint.ask("GET", "/ping").status == 200
            endpoint.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 60
            while not is_refused(endpoint.port):
                assert time.monotonic() < deadline and endpoint.process.poll() is None
                time.sleep(0.05)
        finally:
            gate.touch()
        answers = [future.result(60) for future in running]
        assert [answer.status for answer in answers] == [200] * 3 and answers[0].json in (0, 1, 2)
        assert endpoint.process.wait(60) == 0


DYING = SLOW.replace('while not os.path.exists(os.environ["GATE"]): time.sleep(0.01)', "sys.exit()")


def test_ping_tells_when_nothing_can_be_answered_any_more(model_folder, tmp_path):
    with serving(model_folder, tmp_path, "-c", DYING) as endpoint:
        assert endpoint.ask("GET", "/ping").status == 200
        answers = [endpoint.invoke(jpeg()) for _ in range(2)]
        assert [answer.status for answer in answers] == [503, 503]
        ping = endpoint.ask("GET", "/ping")
        assert (ping.status, ping.json["status"]) == (503, "the network's thread has ended")


def test_ping_tells_of_a_request_that_is_never_answered(model_folder):
    endpoint = Endpoint(Classifier(model_folder), Settings())
    endpoint._begun[0] = time.monotonic() - 31
    response = asyncio.run(endpoint.ping(None))
    assert response.status_code == 503 and re.search(rb"has been waiting for 3\d s", response.body)
    endpoint.close()


def test_a_server_that_can_not_start_says_so_in_one_line(tmp_path):
    command = [sys.executable, "-m", "dogbreed.serving.server", "--model-dir", f"{tmp_path}/no"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    told = f"error: model folder {tmp_path}/no does not exist: a training leaves one in outputs/NAME/model\n"
    assert done.stderr == told


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("ANSWER", "number", "allowed: label, index"), ("TOP_K", "0", "at least 1"), ("MAX_BATCH", "1.5", "at least 1")],
)
def test_a_wrong_setting_is_named(name, value, message):
    with pytest.raises(UserError, match=f"DOGBREED_{name}={value}: .*{message}"):
        Settings.from_environment({f"DOGBREED_{name}": value})


def test_answers_leave_at_once():
    """What the kernel holds back until the client's ACK made every answer on an open connection 40 ms late."""
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert client.getpeername() == connection.getsockname()
