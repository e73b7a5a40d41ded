"""Checks of single images; repairs leave the pixels unchanged."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from dogbreed.data.decode import decode_pixels
from dogbreed.publishing.checks import LARGE_PIXELS, check_all, check_image, repaired_name
from dogbreed.publishing.sources import FolderSource
from dogbreed.storage.manifest import ImageFile

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
JPEG = simplejpeg.encode_jpeg(PIXELS)


def encoded(kind, **options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, **options)
    return file.getvalue()


def test_check_image_valid_keeps_name_and_bytes():
    found = check_image("train/a/1.JPG", JPEG, {})
    assert (found.name, found.problem, found.repairs, found.size) == ("train/a/1.JPG", "", (), len(JPEG))
    assert (found.width, found.height) == (60, 40)
    assert found.repair.apply(JPEG) is JPEG


def test_check_image_applies_orientation_to_size():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    found = check_image("a/1.jpg", encoded("JPEG", exif=exif), {})
    assert (found.width, found.height) == (40, 60)


@pytest.mark.parametrize(
    ("data", "repair"),
    [
        (b"\0" * 128 + JPEG, "removed 128 junk bytes before the image"),
        (JPEG[:-2], "added the missing end marker"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + JPEG[:-2], "added the missing end marker"),
    ],
)
def test_check_image_repairs_jpeg_to_equal_pixels(data, repair):
    found = check_image("a/1.jpg", data, {})
    assert found.problem == ""
    assert repair in found.repairs
    repaired = found.repair.apply(data)
    assert found.has_content(repaired) and found.size == len(repaired)
    assert np.array_equal(decode_pixels(repaired), decode_pixels(JPEG))
    assert check_image("a/1.jpg", repaired, {}).repairs == ()


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
def test_repaired_name_has_suffix_of_format(key, kind, name):
    found, repairs = repaired_name(key, kind)
    assert found == name
    assert bool(repairs) == (key != name)


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
def test_check_image_damaged_reports_reason(data, reason):
    assert re.search(reason, check_image("a/1.jpg", data, {}).problem)


def test_check_image_with_too_many_pixels_is_skipped():
    bomb = Image.new("1", (20_000, 20_000))
    file = io.BytesIO()
    bomb.save(file, "PNG")
    assert "too large: " in check_image("a/1.png", file.getvalue(), {}).problem


def test_check_image_large_has_note():
    side = int(LARGE_PIXELS**0.5) + 10
    data = simplejpeg.encode_jpeg(np.zeros((side, side, 1), np.uint8), colorspace="GRAY")
    found = check_image("a/1.jpg", data, {})
    assert found.problem == ""
    assert found.note.startswith("large image")


def test_check_image_hash_ignores_metadata_of_copies():
    exif = Image.Exif()
    exif[0x010E] = "a description"
    one = check_image("a/1.jpg", encoded("JPEG"), {})
    other = check_image("a/2.jpg", encoded("JPEG", exif=exif, comment="a comment"), {})
    different = check_image("a/3.jpg", JPEG, {})
    assert one.hash != other.hash
    assert one.hash_without_metadata == other.hash_without_metadata != different.hash_without_metadata


def test_check_image_known_hash_is_not_decoded(monkeypatch):
    found = check_image("a/1.jpg", JPEG, {})
    known = {found.hash: ImageFile("a/1.jpg", found.size, "etag", found.width, found.height, found.hash)}
    monkeypatch.setattr("dogbreed.publishing.checks.decode_pixels", None)
    assert check_image("a/1.jpg", JPEG, known) == found


def test_check_image_real_photos_are_valid(shared):
    for path in sorted(Path(shared, "photos").glob("*.JPEG"))[:10]:
        found = check_image(path.name, path.read_bytes(), {})
        assert (found.problem, found.name) == ("", path.name)


def test_check_all_reports_skipped_files_with_reason(tmp_path):
    names = {
        "a/1.jpg": JPEG,
        "a/2.HEIC": b"x",
        "a/3.txt": b"x",
        "a/4": JPEG,
        f"a/{'n' * 240}.jpg": JPEG,
        "a/\n.jpg": JPEG,
    }
    (tmp_path / "a").mkdir()
    for name, data in names.items():
        (tmp_path / name).write_bytes(data)
    source, progress = FolderSource(str(tmp_path), tmp_path), []
    files = sorted(source.list_objects())
    checked = {image.key: image for image in check_all(source, files, {}, lambda *done: progress.append(done))}
    assert progress == [(6, 6)]
    assert set(checked) == set(names) - {"a/3.txt"}
    assert checked["a/1.jpg"].problem == checked["a/4"].problem == ""
    assert checked["a/4"].name == "a/4.jpg"
    assert "unsupported format .heic" in checked["a/2.HEIC"].problem
    assert "longer than" in checked[f"a/{'n' * 240}.jpg"].problem
    assert "control characters" in checked["a/\n.jpg"].problem
