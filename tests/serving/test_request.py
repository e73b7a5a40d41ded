"""Parsing of request bodies."""

import base64
import json

import pytest

from dogbreed.serving.request import MAX_BODY_BYTES, RequestError, parse_request


@pytest.mark.parametrize("content_type", ["image/jpeg", "IMAGE/PNG; q=1", "image/webp", "application/x-image"])
def test_parse_request_raw_body_is_one_image(content_type):
    assert parse_request(b"x", content_type) == ([b"x"], False)


def test_parse_request_json_holds_one_or_several_images():
    text = base64.b64encode(b"one").decode()
    assert parse_request(json.dumps({"image": text}), "application/json; charset=utf-8") == ([b"one"], False)
    both = json.dumps({"instances": [text[:2] + "\n" + text[2:], {"image": text}]})
    assert parse_request(both.encode(), "application/json") == ([b"one", b"one"], True)


DEEP = "[" * 100_000
INVALID = [
    (b"x", None, 415, "no content type"),
    (b"x", "text/plain", 415, "'text/plain'; allowed: image/jpeg"),
    (b"", "image/jpeg", 400, "empty"),
    (b"x" * (MAX_BODY_BYTES + 1), "image/jpeg", 413, "26,214,401 bytes; at most 26,214,400"),
    (b"{", "application/json", 400, "not valid JSON"),
    (b"\xff\xfe", "application/json", 400, "not valid JSON"),
    (DEEP, "application/json", 400, "nested too deeply"),
    ("9" * 10_000, "application/json", 400, "not valid JSON"),
    ("[]", "application/json", 400, "must be"),
    ('{"image": "", "instances": []}', "application/json", 400, "must be"),
    ('{"instances": {}}', "application/json", 400, "must be"),
    ('{"instances": []}', "application/json", 400, "instances is empty"),
    (json.dumps({"instances": [""] * 65}), "application/json", 413, "65 instances; at most 64"),
    ('{"image": 3}', "application/json", 400, "image must be base64 text, not int"),
    ('{"instances": [null]}', "application/json", 400, r"instances\[0\] must be base64 text, not NoneType"),
    ('{"instances": [{}]}', "application/json", 400, r"instances\[0\] must be base64 text"),
    ('{"image": "a"}', "application/json", 400, "image is not valid base64"),
    ('{"image": "é€"}', "application/json", 400, "image is not valid base64"),
]


@pytest.mark.parametrize(("body", "content_type", "status", "reason"), INVALID, ids=[line[3] for line in INVALID])
def test_parse_request_invalid_body_rejected(body, content_type, status, reason):
    with pytest.raises(RequestError, match=reason) as raised:
        parse_request(body, content_type)
    assert raised.value.status == status
    assert len(raised.value.reason) < 300 and "\n" not in raised.value.reason
