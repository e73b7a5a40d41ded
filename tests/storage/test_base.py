import asyncio
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dogbreed.errors import UserError
from dogbreed.storage import open_store
from dogbreed.storage.base import ImageError
from dogbreed.storage.demo import DemoStore
from dogbreed.storage.local import FolderStore
from dogbreed.storage.s3 import S3Store

Folder = Callable[[Path, Mapping[str, int]], Path]


def test_url_selects_the_store(tmp_path: Path) -> None:
    assert open_store(str(tmp_path)) == FolderStore(str(tmp_path), tmp_path)
    assert open_store(f"file://{tmp_path}/a%20b").root == tmp_path / "a b"
    assert open_store("~/images").root == Path.home() / "images"
    assert isinstance(open_store("demo://?classes=3"), DemoStore)
    found = open_store("s3://bucket/a/b #1%/", "http://127.0.0.1:9000")
    assert isinstance(found, S3Store)
    assert (found.bucket, found.prefix, found.endpoint_url) == ("bucket", "a/b #1%/", "http://127.0.0.1:9000")
    assert open_store("s3://bucket").prefix == ""


@pytest.mark.parametrize(
    ("url", "endpoint_url", "message"),
    [
        ("gs://bucket/x", None, "gs:// is not supported; allowed: a folder path, file:///path, s3://"),
        ("s3:///x", None, "has no bucket; type s3://bucket/prefix"),
        ("s3://bucket", "127.0.0.1:9000", "type http://HOST:PORT"),
        ("demo://", "http://127.0.0.1:9000", "needs data.url=s3://"),
    ],
)
def test_invalid_url_error_names_the_mistake(url: str, endpoint_url: str | None, message: str) -> None:
    with pytest.raises(UserError) as caught:
        open_store(url, endpoint_url)
    assert message in str(caught.value)


def test_folder_lists_files_and_folders_without_files(tmp_path: Path, write_images: Folder) -> None:
    write_images(tmp_path, {"train/a": 2, "train/empty": 0})
    (tmp_path / "linked").symlink_to(tmp_path / "train" / "a")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    entries = sorted(open_store(str(tmp_path)).list_objects())
    assert [entry.key for entry in entries] == [
        "linked/000.jpg",
        "linked/001.jpg",
        "train/a/000.jpg",
        "train/a/001.jpg",
        "train/empty/",
    ]
    assert entries[2].size == (tmp_path / "train/a/000.jpg").stat().st_size


def test_etag_follows_a_change(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / "x.jpg").write_bytes(b"1")
    before = next(iter(store.list_objects()))
    os.utime(tmp_path / "x.jpg", ns=(1, 1))
    assert next(iter(store.list_objects())).etag != before.etag


@pytest.mark.parametrize(
    "key", ["a b.jpg", "ü+x.jpg", "p%20q.jpg", "h#1.jpg", "q?x.jpg", "日本/犬.jpg", "it's & [1].jpg"]
)
def test_any_name_can_be_read(tmp_path: Path, key: str) -> None:
    (tmp_path / key).parent.mkdir(exist_ok=True)
    (tmp_path / key).write_bytes(key.encode())
    store = open_store(str(tmp_path))
    assert [entry.key for entry in store.list_objects()] == [key]
    assert asyncio.run(store.fetch(key)).data == key.encode()


def test_cyclic_link_does_not_hang(tmp_path: Path, write_images: Folder) -> None:
    write_images(tmp_path, {"train/a": 1})
    (tmp_path / "train/a/up").symlink_to(tmp_path)
    assert "train/a/000.jpg" in {entry.key for entry in open_store(str(tmp_path)).list_objects()}


def test_unlistable_folder_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file.zip").touch()
    for name, message in (("nowhere", "the folder does not exist"), ("file.zip", "the folder is a file")):
        with pytest.raises(UserError, match=message):
            list(open_store(str(tmp_path / name)).list_objects())


def test_missing_file_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        asyncio.run(open_store(str(tmp_path)).fetch("gone.jpg"))


def test_stores_can_be_pickled(tmp_path: Path) -> None:
    for url in (str(tmp_path), "s3://bucket/x", "demo://?classes=3"):
        store = open_store(url)
        assert pickle.loads(pickle.dumps(store)) == store


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("S3://b/dogs", "s3://b/dogs"),
        ("s3a://b/dogs/", "s3://b/dogs"),
        ("https://b.s3.amazonaws.com/dogs", "s3://b/dogs"),
        ("https://b.s3.eu-west-1.amazonaws.com/", "s3://b"),
        ("https://s3.eu-west-1.amazonaws.com/b/dogs", "s3://b/dogs"),
        ("arn:aws:s3:eu-west-1:123456789012:accesspoint/x", "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/x"),
    ],
)
def test_other_spelling_of_an_s3_address_is_corrected(url: str, right: str) -> None:
    with pytest.raises(UserError, match=f": type data.url={right}$"):
        open_store(url)


def test_dangling_link_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    assert not list(FolderStore("here", tmp_path).list_objects())
    assert "skipped a.jpg, a link to a file that does not exist" in caplog.text
