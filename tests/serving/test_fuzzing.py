"""Fuzzing: the endpoint answers or rejects every mutated request, and its memory does not grow."""

import base64
import io
import json
import random
import socket
from contextlib import suppress

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.serving.running_endpoint import run_endpoint
from tests.serving.sample_images import SIZE, as_json, jpeg, png_of_size, variants

TYPES = ["image/jpeg", "image/png", "image/webp", "application/x-image", "application/json"]


def flipped(rng, data):
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 30, 300))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncated(rng, data):
    return data[: rng.randrange(len(data))]


def spliced(rng, data):
    """A polyglot: the head of one file, the tail of another."""
    other = rng.choice([*variants().values(), b"%PDF-1.7\n", b"PK\x03\x04", b"<svg onload='x'/>", b"GIF89a"])
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def repeated(rng, data):
    at, length = rng.randrange(len(data)), rng.randrange(1, 200)
    return data[:at] + data[at : at + length] * rng.randrange(2, 50) + data[at:]


def extreme_lengths(rng, data):
    """Bytes near the head, where lengths and sizes are, set to extreme values."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(min(len(changed), 600))
        changed[at : at + rng.choice((1, 2, 4))] = rng.choice((b"\xff", b"\x00", b"\x7f\xff\xff\xff"))
    return bytes(changed)


MUTATIONS = [flipped, truncated, spliced, repeated, extreme_lengths]


def mutated_requests(number, rng):
    """Yields body, content type and headers of each of `number` requests."""
    originals = [*variants().values(), gif(), as_json(jpeg()).encode(), json.dumps({"image": "aGFsbG8="}).encode()]
    for _ in range(number):
        data = rng.choice(originals)
        for _ in range(rng.choice((1, 1, 2, 3))):
            data = rng.choice(MUTATIONS)(rng, data) or b"\x00"
        kind = rng.choice(TYPES)
        if rng.random() < 0.1:
            data = json.dumps(
                {"instances": [base64.b64encode(data).decode(), rng.choice((1, None, {}, "", "é"))]}
            ).encode()
        elif rng.random() < 0.05:
            data = png_of_size(rng.choice((0, 1, 2**16, 2**31 - 1)), rng.choice((1, 3000, 2**24)))
        headers = {"Accept": rng.choice(("application/json", "text/csv", "*/*", "application/x-npy", "x", "\x7f,;/"))}
        if rng.random() < 0.1:
            headers |= {"X-Long": "x" * rng.choice((100, 10_000, 60_000)), "Content-Encoding": "gzip"}
        yield data, kind, headers


def gif():
    frames = [Image.fromarray(np.full((*SIZE[::-1], 3), value, np.uint8)) for value in (10, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def fuzz(endpoint, number, seed):
    """Sends `number` mutated requests and returns the count of each status."""
    counts = {}
    for data, kind, headers in mutated_requests(number, random.Random(seed)):
        answer = endpoint.invoke(data, kind, **headers)
        counts[answer.status] = counts.get(answer.status, 0) + 1
        if answer.status >= 400 and answer.headers.get("content-type") == "application/json":
            assert answer.json["error"] and "\n" not in answer.json["error"]
    return counts


ALLOWED = {200, 400, 406, 413, 415}


def test_endpoint_mutated_requests_answered_or_rejected(endpoint):
    counts = fuzz(endpoint, 400, seed=1)
    assert counts.keys() <= ALLOWED and counts[200] > 10 and counts[400] > 100, counts
    assert endpoint.invoke(jpeg()).status == 200


GARBAGE = [
    b"\x00\x01\x02\r\n\r\n",
    b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 9" + b"9" * 400 + b"\r\n\r\n",
    b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 300_000,
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /invocations HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
]


@pytest.mark.parametrize("sent", GARBAGE, ids=range(len(GARBAGE)))
def test_endpoint_malformed_http_rejected(endpoint, sent):
    answer = b""
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as client:
        with suppress(OSError):  # the server may close early
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            answer = client.recv(100)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    assert endpoint.request("GET", "/ping").status == 200


def test_endpoint_many_mutated_requests_do_not_leak(model_folder, tmp_path):
    with run_endpoint(model_folder, tmp_path) as endpoint:
        before = endpoint.invoke(jpeg()).json
        process = psutil.Process(endpoint.process.pid)
        memory_mb = []
        for seed in range(8):
            assert fuzz(endpoint, 200, seed + 2).keys() <= ALLOWED
            memory_mb.append(process.memory_info().rss / 2**20)
        assert memory_mb[-1] < memory_mb[2] + 30
        assert endpoint.invoke(jpeg()).json == before
