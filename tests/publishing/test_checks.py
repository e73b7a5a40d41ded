"""One image: what is wrong with it, what is mended, and that nothing of it changes."""

import io
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from dogbreed.data.decode import decode_pixels
from dogbreed.publishing.checks import LARGE_PIXELS, examine, named
from dogbreed.storage.manifest import ImageFile

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
JPEG = simplejpeg.encode_jpeg(PIXELS)


def encoded(kind, **options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, **options)
    return file.getvalue()


def whole(data):
    return decode_pixels(data)


def test_a_sound_image_keeps_name_and_bytes():
    found = examine("train/a/1.JPG", JPEG, {})
    assert (found.name, found.problem, found.notes, found.size) == ("train/a/1.JPG", "", (), len(JPEG))
    assert (found.width, found.height) == (60, 40)
    assert found.mending.apply(JPEG) is JPEG


def test_width_and_height_are_those_that_a_viewer_shows():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    found = examine("a/1.jpg", encoded("JPEG", exif=exif), {})
    assert (found.width, found.height) == (40, 60)


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (b"\0" * 128 + JPEG, "128 stray bytes before the image cut off"),
        (JPEG[:-2], "the missing end marker added"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + JPEG[:-2], "the missing end marker added"),
    ],
)
def test_a_jpeg_is_mended_to_the_very_same_pixels(data, note):
    found = examine("a/1.jpg", data, {})
    assert found.problem == ""
    assert note in found.notes
    mended = found.mending.apply(data)
    assert found.has_content(mended) and found.size == len(mended)
    assert np.array_equal(whole(mended), whole(JPEG))
    assert examine("a/1.jpg", mended, {}).notes == ()


@pytest.mark.parametrize(
    ("key", "kind", "name"),
    [
        ("a/x.jpg", "PNG", "a/x.png"),
        ("a/x.PNG", "JPEG", "a/x.jpg"),
        ("a/x", "JPEG", "a/x.jpg"),
        ("a/St.Bernard", "WEBP", "a/St.Bernard.webp"),
        ("a/x.JPEG", "JPEG", "a/x.JPEG"),
        ("Épagneul/e\u0301.jpg", "JPEG", "Épagneul/é.jpg"),
    ],
)
def test_names(key, kind, name):
    found, notes = named(key, kind)
    assert found == name
    assert bool(notes) == (key != name)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image: it is empty"),
        (b"<html>not found</html>", "not an image: it begins with b'<html>not fo'"),
        (JPEG[: len(JPEG) // 2], "damaged JPEG: .*[Pp]remature end"),
        (JPEG[: len(JPEG) // 2] + b"\xff\xd9", "damaged JPEG: .*premature end"),
        (encoded("PNG")[:-300], "truncated|damaged"),
    ],
)
def test_a_damaged_one_is_no_image_and_says_why(data, reason):
    import re

    assert re.search(reason, examine("a/1.jpg", data, {}).problem)


def test_a_huge_one_is_refused_by_its_header():
    bomb = Image.new("1", (20_000, 20_000))
    file = io.BytesIO()
    bomb.save(file, "PNG")
    assert "huge: " in examine("a/1.png", file.getvalue(), {}).problem


def test_a_large_one_is_named():
    side = int(LARGE_PIXELS**0.5) + 10
    data = simplejpeg.encode_jpeg(np.zeros((side, side, 1), np.uint8), colorspace="GRAY")
    found = examine("a/1.jpg", data, {})
    assert found.problem == ""
    assert found.notes[0].startswith("large: ")


def test_copies_that_differ_in_metadata_have_one_essence():
    exif = Image.Exif()
    exif[0x010E] = "a description"
    one = examine("a/1.jpg", encoded("JPEG"), {})
    other = examine("a/2.jpg", encoded("JPEG", exif=exif, comment="a comment"), {})
    different = examine("a/3.jpg", JPEG, {})
    assert one.hash != other.hash
    assert one.essence == other.essence != different.essence


def test_what_was_checked_before_is_not_decoded_again(monkeypatch):
    found = examine("a/1.jpg", JPEG, {})
    known = {found.hash: ImageFile("a/1.jpg", found.size, "etag", found.width, found.height, found.hash)}
    monkeypatch.setattr("dogbreed.publishing.checks.decode_pixels", None)
    assert examine("a/1.jpg", JPEG, known) == found


def test_real_photos_are_sound(shared):
    for path in sorted(Path(shared, "photos").glob("*.JPEG"))[:10]:
        found = examine(path.name, path.read_bytes(), {})
        assert (found.problem, found.name) == ("", path.name)
