import gzip
import json
from pathlib import Path

import pytest

from dogbreed.storage import open_store
from dogbreed.storage.manifest import MANIFEST, ImageFile, ManifestError, manifest_bytes, parse_manifest, read_manifest

IMAGES = [
    ImageFile("train/b/ü.jpg", 7, "e2", 30, 20, "0" * 32),
    ImageFile("train/a/1.jpg", 5, "e1"),
]


def test_manifest_round_trips(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert read_manifest(store) is None
    (tmp_path / MANIFEST).write_bytes(manifest_bytes(IMAGES))
    assert list(read_manifest(store)) == sorted(IMAGES)


def test_manifest_lines_are_json() -> None:
    header, first, _ = map(json.loads, gzip.decompress(manifest_bytes(IMAGES)).splitlines())
    assert (header["format"], header["images"]) == (1, 2)
    assert first == {"key": "train/a/1.jpg", "size": 5, "etag": "e1", "width": 0, "height": 0, "hash": ""}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda content: content[:-20], "damaged: "),
        (lambda content: b"no gzip", "damaged: Not a gzipped file"),
        (lambda content: gzip.compress(b""), "damaged: "),
        (lambda content: gzip.compress(b"\n".join(gzip.decompress(content).splitlines()[:-1])), "1 of 2 images"),
        (lambda content: gzip.compress(gzip.decompress(content).replace(b'"format": 1', b'"format": 2')), "format 2"),
        (lambda content: gzip.compress(gzip.decompress(content).replace(b'"key"', b'"name"')), "damaged: "),
    ],
)
def test_damaged_manifest_is_reported(spoil, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        list(parse_manifest(spoil(manifest_bytes(IMAGES))))
