"""Decoding of a request's images."""

import time

import numpy as np
import pytest
import torch

from dogbreed.input_spec import InputSpec
from dogbreed.serving.images import decode_image, decode_images
from dogbreed.serving.request import RequestError, parse_request
from tests.serving.sample_images import as_json, half_transparent, jpeg, png_of_size, scene, variants

SPEC = InputSpec(64, 64)
VARIANTS = variants()


def reference(image):
    """Returns the evaluation input of a PIL image, computed with torchvision alone."""
    from torchvision.transforms.v2 import functional as F

    resized = F.resize(torch.from_numpy(np.array(image)).permute(2, 0, 1), [73, 97], antialias=True, interpolation=3)
    return F.center_crop(resized, [64, 64]).float()


@pytest.mark.parametrize("variant", VARIANTS)
def test_decode_image_variants_match_viewer(variant):
    expected = scene().convert("L").convert("RGB") if variant.startswith("grey") else scene()
    difference = (decode_image(VARIANTS[variant], SPEC).float() - reference(expected)).abs().mean()
    assert difference < 4  # of 255; a rotated image differs by more than 60


def test_decode_image_transparency_becomes_white():
    content, expected = half_transparent()
    assert (decode_image(content, SPEC).float() - reference(expected)).abs().mean() < 4


UNREADABLE = {
    "not a readable image, it begins with": b"hello",
    "Premature end of JPEG": jpeg()[:-900],
    "7000 x 7000 pixels; at most 33,554,432": png_of_size(7000, 7000),
    r"Image size \(3600000000 pixels\)": png_of_size(60000, 60000),
    "is 20000 x 100: one side": png_of_size(20000, 100),
    "begins with b'%!PS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
}


@pytest.mark.parametrize("reason", UNREADABLE)
def test_decode_image_unreadable_rejected_before_decoding(reason):
    start = time.thread_time()
    with pytest.raises(RequestError, match=reason) as raised:
        decode_image(UNREADABLE[reason], SPEC)
    assert raised.value.status == (413 if "pixels" in reason else 400)
    assert time.thread_time() - start < 1


def test_decode_images_error_names_instance():
    request = parse_request(as_json(jpeg(), b"nothing"), "application/json")
    with pytest.raises(RequestError, match=r"instances\[1\]: not a readable image"):
        decode_images(request, SPEC)
