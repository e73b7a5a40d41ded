"""The endpoint over HTTP: a real process and real requests."""

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
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress

import numpy as np
import pytest
from starlette.requests import Request

from dogbreed.serving.app import Endpoint
from dogbreed.serving.classifier import Classifier
from dogbreed.serving.images import decode_image
from dogbreed.serving.request import RequestError
from dogbreed.serving.settings import Settings
from tests.serving.running_endpoint import CLASSES, run_endpoint
from tests.serving.sample_images import as_json, encoded, jpeg, png_of_size, scene, variants


@pytest.fixture(scope="module")
def expected(model_folder):
    """Probabilities of `jpeg()`, computed without a server."""
    model = Classifier(model_folder)
    return model(decode_image(jpeg(), model.card.input_spec)[None])[0]


def test_invocations_raw_image_returns_top_k(endpoint, expected):
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


@pytest.mark.parametrize("variant", ["png", "webp", "rotated by exif", "cmyk", "animated webp"])
def test_invocations_image_variants_answered(endpoint, variant):
    answer = endpoint.invoke(variants()[variant], "application/x-image")
    assert answer.status == 200 and answer.json["predicted_label"] in ("001", "069", CLASSES[2])


def test_invocations_json_csv_numpy_agree(endpoint, expected):
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
def test_invocations_bad_request_returns_reason(endpoint, status, reason, body, headers):
    answer = endpoint.request("POST", "/invocations", body, **({"Content_Type": "image/jpeg"} | headers))
    assert answer.status == status and reason in answer.json["error"]
    assert endpoint.request("GET", "/ping").status == 200


def test_invocations_oversized_body_or_lost_client_handled(endpoint):
    def chunks():
        for _ in range(30):
            yield bytes(2**20)

    with suppress(BrokenPipeError, ConnectionResetError):  # the server may close early
        assert endpoint.request("POST", "/invocations", chunks(), Content_Type="image/jpeg").status == 413
    with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
        client.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nabc"
        )
    assert endpoint.request("GET", "/nothing").json == {"error": "Not Found"}
    assert endpoint.request("GET", "/invocations").status == 405
    assert endpoint.invoke(jpeg()).status == 200


@pytest.mark.parametrize(("status", "limit", "value"), [(413, "MAX_BODY_BYTES", 5), (408, "BODY_TIMEOUT_S", 0)])
def test_invocations_incomplete_body_logs_no_traceback(model_folder, monkeypatch, caplog, status, limit, value):
    monkeypatch.setattr(f"dogbreed.serving.app.{limit}", value)
    endpoint = Endpoint(Classifier(model_folder), Settings())

    async def receive():
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"abc", "more_body": True}

    async def invoke():
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        with pytest.raises(RequestError) as raised:
            await endpoint.invocations(request)
        return raised.value.status

    assert asyncio.run(invoke()) == status
    gc.collect()
    assert "Traceback" not in caplog.text and endpoint._buffered_bytes == 0
    endpoint.close()


def test_page_loads_nothing_from_other_hosts(endpoint):
    answer = endpoint.request("GET", "/")
    page = answer.body.decode()
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/html")
    assert "<h1>small</h1>" in page and "test_resnet, 3 classes" in page
    assert "http:" not in page and "https:" not in page and "//cdn" not in page


def test_invocations_concurrent_clients_get_own_answers(endpoint):
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
from dogbreed.serving.app import Endpoint
from dogbreed.serving.classifier import Classifier
from dogbreed.serving import server
answer = Classifier.__call__
def slowly(self, pixels):
    if "MainThread" != threading.current_thread().name:
        while not os.path.exists(os.environ["GATE"]): time.sleep(0.01)
    return answer(self, pixels)
Classifier.__call__ = slowly
sys.exit(server.main(sys.argv[1:]))
"""
"""The server, with a network that blocks until the file GATE exists."""


def is_refused(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_endpoint_overload_returns_503_and_sigterm_drains(model_folder, tmp_path):
    gate = tmp_path / "gate"
    settings = {"DOGBREED_MAX_WAITING": "3", "DOGBREED_ANSWER": "index", "GATE": str(gate)}
    with run_endpoint(model_folder, tmp_path, "-c", SLOW, **settings) as endpoint, ThreadPoolExecutor(8) as clients:
        try:
            asked = [clients.submit(endpoint.invoke, jpeg()) for _ in range(6)]
            refused = [future.result() for future in itertools.islice(as_completed(asked, 60), 3)]
            assert [answer.status for answer in refused] == [503] * 3
            assert refused[0].headers["retry-after"] == "1" and "3 images are waiting" in refused[0].json["error"]
            running = [future for future in asked if not future.done()]
            assert len(running) == 3
            assert endpoint.request("GET", "/ping").status == 200
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


def test_ping_dead_inference_thread_returns_503(model_folder, tmp_path):
    with run_endpoint(model_folder, tmp_path, "-c", DYING) as endpoint:
        assert endpoint.request("GET", "/ping").status == 200
        answers = [endpoint.invoke(jpeg()) for _ in range(2)]
        assert [answer.status for answer in answers] == [503, 503]
        ping = endpoint.request("GET", "/ping")
        assert (ping.status, ping.json["status"]) == (503, "the inference thread has stopped")


def test_ping_hung_request_returns_503(model_folder):
    endpoint = Endpoint(Classifier(model_folder), Settings())
    endpoint._started[0] = time.monotonic() - 31
    response = asyncio.run(endpoint.ping(None))
    assert response.status_code == 503 and re.search(rb"has been waiting for 3\d s", response.body)
    endpoint.close()
