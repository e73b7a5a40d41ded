import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from obstore.exceptions import PermissionDeniedError

from benchmarks.proxy import Proxy
from dogbreed import ImageDataModule
from dogbreed.errors import UserError
from dogbreed.input_spec import InputSpec
from dogbreed.storage import open_store, s3
from dogbreed.storage.base import ImageError, ObjectBody
from dogbreed.storage.s3 import S3Store
from tests.s3_server import S3Server

Folder = Callable[[Path, Mapping[str, int]], Path]
CONFIG = {"input_size": (3, 16, 16), "interpolation": "bilinear", "crop_pct": 0.9}
SPEC = InputSpec.from_data_config(CONFIG)
ODD_NAMES = ["a b.jpg", "ü+x.jpg", "p%20q.jpg", "h#1.jpg", "q?x=1&y.jpg", "日本.jpg", "it's [1].jpg", "~$,;=@!.jpg"]


@pytest.fixture
def bucket(s3_server: S3Server, write_images: Folder, request: pytest.FixtureRequest) -> str:
    """A bucket for this test, with class folders below `dogs 1/`."""
    name = request.node.name.replace("_", "-").lower().partition("[")[0][:60]
    counts = {"train/001.Pug": 9, "train/002.Husky": 8, "valid/001.Pug": 3, "valid/002.Husky": 3}
    write_images(s3_server.root / name / "dogs 1", counts)
    return name


def module(url: str, server: S3Server | None = None, **options: object) -> ImageDataModule:
    endpoint_url = server.url if server else None
    return ImageDataModule(url, endpoint_url=endpoint_url, batch_size=5, input_spec=SPEC, **options)


# The order of tests affects only their speed: once this process has used obstore, workers are spawned, not forked.
def test_secret_that_becomes_invalid_in_mid_run_is_an_error(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = module(f"s3://{bucket}/dogs 1", s3_server, num_workers=1)
    data.setup("fit")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match=r"^s3://.*/dogs 1/train/.*jpg cannot be read: .*403 Forbidden"):
        list(data.train_dataloader())
    data.teardown("fit")


@pytest.mark.parametrize("num_workers", [2, 0])
def test_s3_listing_equals_the_folder(s3_server: S3Server, bucket: str, num_workers: int) -> None:
    remote = module(f"s3://{bucket}/dogs 1", s3_server, num_workers=num_workers)
    local = module(str(s3_server.root / bucket / "dogs 1"), num_workers=0)
    assert remote.classes == local.classes == ["001.Pug", "002.Husky"]
    assert remote.class_counts == local.class_counts
    for split in ("train", "val", "test"):
        assert remote.keys(split) == local.keys(split)
    for ours, theirs in ((remote.train_dataloader(), local.train_dataloader()),) * 2:
        pairs = list(zip(ours, theirs, strict=True))
        assert pairs
        assert all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))
    remote.teardown("fit")


def test_workers_start_after_this_process_used_obstore(s3_server: S3Server, bucket: str) -> None:
    """obstore's threads do not survive a fork: workers must then be started another way."""
    data = module(f"s3://{bucket}/dogs 1/train", s3_server, num_workers=0)
    alone = torch.cat([batch.indices for batch in data.train_dataloader()])
    assert not data.store.fork_is_safe()
    data = module(f"s3://{bucket}/dogs 1/train", s3_server, num_workers=1)
    assert torch.equal(alone, torch.cat([batch.indices for batch in data.train_dataloader()]))
    data.teardown("fit")


def test_unusual_names_are_listed_and_read(s3_server: S3Server, bucket: str) -> None:
    folder = s3_server.root / bucket / "dogs 1" / "train" / "001.Pug"
    for name in ODD_NAMES:
        (folder / name).write_bytes(name.encode())
    store = open_store(f"s3://{bucket}/dogs 1/train", s3_server.url)
    keys = {entry.key for entry in store.list_objects()}
    for name in ODD_NAMES:
        assert f"001.Pug/{name}" in keys
        assert asyncio.run(store.fetch(f"001.Pug/{name}")).data == name.encode()


@pytest.mark.parametrize("folders", [["pug"], ["train/pug", "train/husky", "valid/pug"]])
def test_many_pages_are_listed(s3_server: S3Server, folders: list[str]) -> None:
    expected = {"top.txt", f"{folders[0]}/deep/er/x.jpg"}
    for folder in folders:
        (s3_server.root / f"many{len(folders)}" / folder).mkdir(parents=True)
        expected |= {f"{folder}/{number:04d}.jpg" for number in range(2100 // len(folders))}
    for key in expected:
        path = s3_server.root / f"many{len(folders)}" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [entry.key for entry in open_store(f"s3://many{len(folders)}", s3_server.url).list_objects()]
    assert sorted(found) == sorted(expected)


def test_folders_are_listed_in_parallel(s3_server: S3Server) -> None:
    folders = [s3_server.root / "wide" / f"{number:03d}" for number in range(24)]
    for folder in folders:
        folder.mkdir(parents=True)
        for number in range(50):
            (folder / f"{number}.jpg").touch()
    proxy = Proxy(s3_server.url, delay_s=0.3)
    entries = list(open_store("s3://wide", proxy.url).list_objects())
    proxy.close()
    assert len(entries) == 24 * 50
    assert proxy.most_open > 8


def test_entries_carry_size_and_etag(s3_server: S3Server, bucket: str) -> None:
    store = open_store(f"s3://{bucket}/dogs 1", s3_server.url)
    for entry in store.list_objects():
        assert entry.size == (s3_server.root / bucket / "dogs 1" / entry.key).stat().st_size
        assert entry.etag
        assert '"' not in entry.etag


def test_missing_object_is_an_image_error(s3_server: S3Server, bucket: str) -> None:
    store = open_store(f"s3://{bucket}/dogs 1", s3_server.url)
    assert store.read("train/001.Pug/gone.jpg") is None
    with pytest.raises(ImageError, match="no longer in the bucket"):
        asyncio.run(store.fetch("train/001.Pug/gone.jpg"))


def one_line(url: str, server: S3Server) -> str:
    with pytest.raises(UserError) as caught:
        module(url, server).setup("fit")
    assert "\n" not in str(caught.value)
    assert "data.url" in str(caught.value)
    return str(caught.value)


def test_wrong_secret_is_a_user_error(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "SignatureDoesNotMatch: check AWS_ACCESS_KEY_ID" in one_line(f"s3://{bucket}", s3_server)


def test_missing_credentials_are_a_user_error(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no AWS credentials; set AWS_PROFILE" in one_line(f"s3://{bucket}", s3_server)


def test_unknown_bucket_is_a_user_error(s3_server: S3Server) -> None:
    assert "there is no such bucket" in one_line("s3://nowhere-at-all/x", s3_server)


def test_empty_prefix_is_a_user_error(s3_server: S3Server, bucket: str) -> None:
    assert "no images; expected below it: train/CLASS/*.jpg" in one_line(f"s3://{bucket}/cats", s3_server)


def test_unreachable_server_is_a_user_error(s3_server: S3Server) -> None:
    closed = S3Server("http://127.0.0.1:9", s3_server.root)
    assert "check data.endpoint_url" in one_line("s3://bucket/x", closed)


def test_unknown_profile_is_a_user_error(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "closed")
    assert "closed" in one_line(f"s3://{bucket}", s3_server)


def test_photographs_from_s3_equal_the_folder(s3_server: S3Server, shared: Path) -> None:
    target = s3_server.root / "photos"
    target.mkdir()
    for folder in sorted((shared / "data/valid").iterdir())[:6]:
        (target / folder.name).symlink_to(folder)
    remote, local = module("s3://photos", s3_server, num_workers=0), module(str(target), num_workers=0)
    pairs = list(zip(remote.train_dataloader(), local.train_dataloader(), strict=True))
    assert len(pairs) > 3
    assert all(torch.equal(one.images, other.images) for one, other in pairs)
    assert not remote.bad_images


class Answers:
    """An obstore client whose requests fail with a given error, for all keys but those that end in `good`."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def get(self, client: object, path: str) -> ObjectBody:
        if path.endswith("good"):
            return ObjectBody(b"x", "e")
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionDeniedError("403 <Code>AccessDenied</Code>"), "access to this object is denied"),
        (PermissionDeniedError("403 <Code>InvalidObjectState</Code>"), "archived in S3 Glacier"),
        (ValueError("Could not parse path: a//b.jpg"), "its key has an empty or unusual part, rename it"),
    ],
)
def test_one_object_that_cannot_be_read_is_skipped(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_get", Answers(error).get)
    monkeypatch.setattr(S3Store, "object_client", lambda self: object())
    store = S3Store.from_url(f"s3://{reason}", None)
    if "denied" in reason:
        with pytest.raises(UserError, match=r"check AWS|AccessDenied"):
            asyncio.run(store.fetch("a/bad"))
    assert asyncio.run(store.fetch("a/good")).data == b"x"
    with pytest.raises(ImageError, match=reason):
        asyncio.run(store.fetch("a/bad"))
