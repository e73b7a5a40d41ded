"""What is read of a request's body."""

import base64
import json
import time

import numpy as np
import pytest
import torch

from dogbreed.data.transforms import InputSpec
from dogbreed.serving import images
from dogbreed.serving.images import RequestError, read_body, read_image, read_images
from tests.serving.sample_images import as_json, forms, jpeg, png_of_size, scene, seen_through

FORMAT = InputSpec(64, 64)
MODEL_SEES = forms()


def shown(image):
    from torchvision.transforms.v2 import functional as F

    resized = F.resize(torch.from_numpy(np.array(image)).permute(2, 0, 1), [73, 97], antialias=True, interpolation=3)
    return F.center_crop(resized, [64, 64]).float()


@pytest.mark.parametrize("form", MODEL_SEES)
def test_a_image_is_read_as_a_viewer_would_show_it(form):
    expected = scene().convert("L").convert("RGB") if form.startswith("grey") else scene()
    difference = (read_image(MODEL_SEES[form], FORMAT).float() - shown(expected)).abs().mean()
    assert difference < 4  # of 255; a turned image is off by more than 60


def test_what_is_transparent_is_white():
    content, expected = seen_through()
    assert (read_image(content, FORMAT).float() - shown(expected)).abs().mean() < 4


@pytest.mark.parametrize("content_type", ["image/jpeg", "IMAGE/PNG; q=1", "image/webp", "application/x-image"])
def test_a_raw_body_is_one_image_whatever_it_is_called(content_type):
    assert read_body(b"x", content_type) == ([b"x"], False)


def test_json_holds_one_image_or_several():
    text = base64.b64encode(b"one").decode()
    assert read_body(json.dumps({"image": text}), "application/json; charset=utf-8") == ([b"one"], False)
    both = json.dumps({"instances": [text[:2] + "\n" + text[2:], {"image": text}]})
    assert read_body(both.encode(), "application/json") == ([b"one", b"one"], True)


DEEP = "[" * 100_000
WRONG = [
    (b"x", None, 415, "no content type"),
    (b"x", "text/plain", 415, "'text/plain'; allowed: image/jpeg"),
    (b"", "image/jpeg", 400, "empty"),
    (b"x" * (images.MAX_BODY_BYTES + 1), "image/jpeg", 413, "26,214,401 bytes; at most 26,214,400"),
    (b"{", "application/json", 400, "no JSON"),
    (b"\xff\xfe", "application/json", 400, "no JSON"),
    (DEEP, "application/json", 400, "nested too deeply"),
    ("9" * 10_000, "application/json", 400, "no JSON"),
    ("[]", "application/json", 400, "must be"),
    ('{"image": "", "instances": []}', "application/json", 400, "must be"),
    ('{"instances": {}}', "application/json", 400, "must be"),
    ('{"instances": []}', "application/json", 400, "instances is empty"),
    (json.dumps({"instances": [""] * 65}), "application/json", 413, "65 instances; at most 64"),
    ('{"image": 3}', "application/json", 400, "image is no base64 text but int"),
    ('{"instances": [null]}', "application/json", 400, r"instances\[0\] is no base64 text but NoneType"),
    ('{"instances": [{}]}', "application/json", 400, r"instances\[0\] is no base64 text"),
    ('{"image": "a"}', "application/json", 400, "image is no base64"),
    ('{"image": "é€"}', "application/json", 400, "image is no base64"),
]


@pytest.mark.parametrize(("body", "content_type", "status", "reason"), WRONG, ids=[line[3] for line in WRONG])
def test_a_wrong_body_is_refused_with_its_reason(body, content_type, status, reason):
    with pytest.raises(RequestError, match=reason) as refused:
        read_body(body, content_type)
    assert refused.value.status == status
    assert len(refused.value.reason) < 300 and "\n" not in refused.value.reason


UNREADABLE = {
    "not a readable image, it begins with": b"hello",
    "Premature end of JPEG": jpeg()[:-900],
    "7000 x 7000 pixels; at most 33,554,432": png_of_size(7000, 7000),
    r"Image size \(3600000000 pixels\)": png_of_size(60000, 60000),
    "is 20000 x 100: one side": png_of_size(20000, 100),
    "begins with b'%!PS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
}


@pytest.mark.parametrize("reason", UNREADABLE)
def test_an_unreadable_image_is_refused_with_its_reason_at_once(reason):
    start = time.thread_time()
    with pytest.raises(RequestError, match=reason) as refused:
        read_image(UNREADABLE[reason], FORMAT)
    assert refused.value.status == (413 if "pixels" in reason else 400)
    assert time.thread_time() - start < 1


def test_of_several_images_the_bad_one_is_named():
    request = read_body(as_json(jpeg(), b"nothing"), "application/json")
    with pytest.raises(RequestError, match=r"instances\[1\]: not a readable image"):
        read_images(request, FORMAT)
