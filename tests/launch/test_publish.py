"""`python -m launch.publish` from files to folders and an S3 server."""

import csv
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import boto3
import numpy as np
import pytest
import simplejpeg

from dogbreed.errors import UserError
from dogbreed.publishing import disk, targets, transfer
from dogbreed.publishing.disk import TransferError
from dogbreed.storage import open_store
from dogbreed.storage.manifest import MANIFEST, read_manifest
from launch import publish
from tests.paths import ROOT

COUNTS = {f"{split}/{breed}": count for split, count in (("train", 4), ("valid", 2), ("test", 2)) for breed in "ab"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


@pytest.fixture
def pets(folder, write_images):
    return write_images(folder / "pets", COUNTS)


@pytest.fixture
def bucket(s3_server, request):
    name = f"publish-{abs(hash(request.node.name)) % 10**9}"
    (s3_server.root / name).mkdir()
    return s3_server.root / name


@pytest.fixture
def uploaded(monkeypatch):
    """Keys written to the target, in order."""
    keys = []
    for target in (targets.S3Target, targets.FolderTarget):

        def put(self, key, *args, _real=target.put):
            _real(self, key, *args)
            keys.append(key)

        monkeypatch.setattr(target, "put", put)
    return keys


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*") if path.is_file())


def to_s3(server, source, bucket, *words):
    return publish.main([str(source), f"s3://{bucket.name}/dogs", f"endpoint_url={server.url}", *words])


def test_publish_folder_to_s3_uploads_once(pets, bucket, s3_server, uploaded, capsys):
    assert to_s3(s3_server, pets, bucket) == 0
    assert files(bucket / "dogs") == sorted([MANIFEST, *files(pets)])
    assert "16 images uploaded" in (out := capsys.readouterr().out)
    assert f"data.url=s3://{bucket.name}/dogs data.endpoint_url={s3_server.url}" in out
    store = open_store(f"s3://{bucket.name}/dogs", s3_server.url)
    listed = {entry.key: entry for entry in store.list_objects()}
    manifest = list(read_manifest(store))
    assert [image.object_info for image in manifest] == [listed[key] for key in files(pets)]
    assert {(image.width, image.height, len(image.hash)) for image in manifest} == {(32, 24, 32)}

    uploaded.clear()
    assert to_s3(s3_server, pets, bucket) == 0
    assert uploaded == []
    assert "0 images uploaded (0.0 MB), 16 unchanged; manifest up to date" in capsys.readouterr().out

    changed = pets / "train/a/000.jpg"
    changed.write_bytes(simplejpeg.encode_jpeg(np.zeros((24, 32, 3), np.uint8)))
    assert to_s3(s3_server, pets, bucket) == 0
    assert uploaded == ["train/a/000.jpg", MANIFEST]
    assert (bucket / "dogs/train/a/000.jpg").read_bytes() == changed.read_bytes()


def test_publish_compares_uploads_of_other_tools_by_etag(pets, bucket, s3_server, uploaded):
    client = boto3.Session().client("s3", endpoint_url=s3_server.url, region_name="us-east-1")
    for key in files(pets)[:10]:
        client.put_object(Bucket=bucket.name, Key=f"dogs/{key}", Body=(pets / key).read_bytes())
    assert to_s3(s3_server, pets, bucket) == 0
    assert sorted(uploaded) == sorted([*files(pets)[10:], MANIFEST])


def test_multipart_etags_contain_that_of_aws_cp():
    """9 MiB in parts of 8 MiB."""
    data = os.urandom(9 << 20)
    parts = b"".join(hashlib.md5(part).digest() for part in (data[: 8 << 20], data[8 << 20 :]))
    assert f"{hashlib.md5(parts).hexdigest()}-2" in targets.multipart_etags(data, 2)
    assert targets.multipart_etags(data, 3) == set()


def add_problems(root):
    """Adds damaged, misnamed, duplicate and hidden files to an image set."""
    image = root / "train/a/000.jpg"
    (root / "train/b/wrong.png").write_bytes(image.read_bytes()[:-2])
    (root / "train/b/half.jpg").write_bytes((root / "train/b/001.jpg").read_bytes()[:300])
    (root / "train/a/copy.jpg").write_bytes((root / "test/a/000.jpg").read_bytes())
    (root / "train/a/.DS_Store").write_bytes(b"x")
    (root / "README.txt").write_text("about")


def test_publish_repairs_or_skips_files_and_lists_them(pets, folder, capsys):
    valid = files(pets)
    add_problems(pets)
    with zipfile.ZipFile(folder / "pets.zip", "w") as archive:
        for key in files(pets):
            archive.write(pets / key, f"pets/{key}")
    assert publish.main([str(folder / "pets.zip"), str(folder / "out")]) == 0
    assert files(folder / "out") == sorted([*valid, "train/b/wrong.jpg", MANIFEST])
    assert (folder / "out/train/b/wrong.jpg").read_bytes() == (pets / "train/a/000.jpg").read_bytes()
    (report,) = Path("outputs/published").glob("*.csv")
    with report.open() as file:
        rows = {(row["file"].removeprefix("pets/"), row["status"]): row["reason"] for row in csv.DictReader(file)}
    assert rows.pop(("train/b/half.jpg", "skipped")) == "truncated"
    assert rows.pop(("train/a/copy.jpg", "skipped")) == "the same image as test/a/000.jpg"
    assert rows.pop(("train/b/wrong.png", "repaired"))
    assert rows == {("train/b/wrong.png", "note"): "the same image as train/a/000.jpg, but in another class"}
    out = capsys.readouterr().out
    assert "train/b/half.jpg" in out and str(report) in out
    assert publish.main([str(folder / "pets.zip"), str(folder / "out")]) == 0
    assert "0 images uploaded" in capsys.readouterr().out


def test_publish_dry_run_writes_nothing(pets, folder, bucket, s3_server, uploaded, capsys):
    assert publish.main([str(pets), str(folder / "out"), "dry_run=true"]) == 0
    assert to_s3(s3_server, pets, bucket, "dry_run=true") == 0
    assert "dry run: 16 images would be uploaded" in capsys.readouterr().out
    assert uploaded == files(bucket) == []
    assert not (folder / "out").exists()


def test_publish_deletes_extra_images_with_delete_only(pets, folder, uploaded):
    out = folder / "out"
    assert publish.main([str(pets), str(out)]) == 0
    (pets / "train/a/000.jpg").unlink()
    uploaded.clear()
    with pytest.raises(UserError, match=r"has 1 images that are not in the source \(train/a/000.jpg\).* delete=true"):
        publish.main([str(pets), str(out)])
    assert uploaded == []
    assert publish.main([str(pets), str(out), "delete=true"]) == 0
    assert files(out) == sorted([*files(pets), MANIFEST])
    assert uploaded == [MANIFEST]


def test_publish_after_fixes_removes_the_list(pets, folder):
    valid = files(pets)
    add_problems(pets)
    assert publish.main([str(pets), str(folder / "out")]) == 0
    assert list(Path("outputs/published").glob("*.csv"))
    for key in set(files(pets)) - set(valid):
        (pets / key).unlink()
    assert publish.main([str(pets), str(folder / "out"), "delete=true"]) == 0
    assert not list(Path("outputs/published").glob("*.csv"))


def test_publish_retries_and_reports_lost_connections(pets, bucket, s3_server, monkeypatch, capsys):
    real, calls = targets.S3Target.put, []

    def put(self, key, *args):
        calls.append(key)
        if key == "train/b/003.jpg" and lost:
            raise targets.TransientError("error sending request: connection reset by peer")
        if calls.count(key) == 1:
            raise targets.TransientError("503 SlowDown")
        real(self, key, *args)

    monkeypatch.setattr(targets.S3Target, "put", put)
    monkeypatch.setattr(transfer, "BACKOFFS_S", (0.0, 0.01))
    lost = True
    assert to_s3(s3_server, pets, bucket) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: error sending request: connection reset") and error.count("\n") == 1
    assert "run the same command to resume" in error
    assert MANIFEST not in files(bucket / "dogs")
    lost = False
    assert to_s3(s3_server, pets, bucket) == 0
    assert files(bucket / "dogs") == sorted([MANIFEST, *files(pets)])


def test_publish_to_full_disk_keeps_complete_files_only(pets, folder, monkeypatch, capsys):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: type("Disk", (), {"free": 100}))
    with pytest.raises(UserError, match="has 0 MB of free space, 0 MB are needed"):
        publish.main([str(pets), str(folder / "out")])
    monkeypatch.undo()
    monkeypatch.chdir(folder / "cwd")
    real, written = Path.write_bytes, []

    def write_bytes(path, data):
        written.append(path)
        if len(written) > 5:
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert publish.main([str(pets), str(folder / "out")]) == 1
    assert "error: the disk of " in capsys.readouterr().err
    monkeypatch.setattr(Path, "write_bytes", real)
    assert 0 < len(files(folder / "out")) <= 5
    assert publish.main([str(pets), str(folder / "out")]) == 0
    assert files(folder / "out") == sorted([MANIFEST, *files(pets)])


def test_publish_interrupted_leaves_no_old_manifest(pets, bucket, s3_server, monkeypatch):
    assert to_s3(s3_server, pets, bucket) == 0
    (pets / "train/a/000.jpg").write_bytes(simplejpeg.encode_jpeg(np.zeros((24, 32, 3), np.uint8)))

    def put(self, key, *args):
        raise TransferError("gone")

    monkeypatch.setattr(targets.S3Target, "put", put)
    assert to_s3(s3_server, pets, bucket) == 1
    assert MANIFEST not in files(bucket / "dogs")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a source and a target"),
        (["missing.zip", "out"], "missing.zip: no such file or folder"),
        (["{pets}", "gs://bucket"], "cannot publish to gs://bucket"),
        (["{pets}", "s3://"], "has no bucket"),
        (["{pets}", "{pets}/out"], "contains the other"),
        (["{pets}", "s3://no-such-bucket/x", "endpoint_url={url}"], "there is no such bucket"),
        (["{pets}", "s3://bucket/x", "endpoint_url=http://127.0.0.1:1"], "cannot be listed: Could not connect"),
        (["{pets}", "out", "endpoint=http://x"], "endpoint.*did you mean endpoint_url"),
        (["{pets}", "out", "dry_run=perhaps"], "dry_run=perhaps"),
        (["{empty}", "out"], "no images; expected below it"),
    ],
)
def test_publish_with_wrong_argument_is_one_line(words, message, pets, folder, s3_server, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    (folder / "empty").mkdir()
    places = {"pets": pets, "empty": folder / "empty", "url": s3_server.url}
    with pytest.raises(UserError, match=message) as error:
        publish.main([word.format(**places) for word in words])
    assert "\n" not in str(error.value)
    assert not Path("out").exists()


def test_publish_without_credentials_names_them(pets, s3_server, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UserError, match="no AWS credentials; set AWS_PROFILE"):
        publish.main([str(pets), "s3://bucket/x", f"endpoint_url={s3_server.url}"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    with pytest.raises(UserError, match="check AWS_ACCESS_KEY_ID"):
        publish.main([str(pets), "s3://bucket/x", f"endpoint_url={s3_server.url}"])


INTERRUPTED = """
import itertools, signal, threading
from dogbreed.cli.command import run_cli
from dogbreed.publishing import targets
from launch import publish

put, calls, interrupted = targets.FolderTarget.put, itertools.count(1), threading.Event()

def interrupt(*args):
    interrupted.set()
    raise KeyboardInterrupt

def put_with_ctrl_c(self, *args):
    call = next(calls)
    if call == 50:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    if call >= 50:
        interrupted.wait()
    put(self, *args)

signal.signal(signal.SIGINT, interrupt)
targets.FolderTarget.put = put_with_ctrl_c
run_cli(publish.main, None)
"""
"""The command, with Ctrl-C during its 50th upload; uploads in progress finish after it."""


def test_publish_after_ctrl_c_counts_and_resumes(folder, uploaded, capsys):
    argv = ["demo://?classes=4&train=240&valid=5&test=5&size=32", str(folder / "out")]
    command = [sys.executable, "-c", INTERRUPTED, *argv]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120, check=False)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    images = files(folder / "out")
    assert 50 <= len(images) < 1000 and MANIFEST not in images
    assert f"stopped after {len(images)} images uploaded; run the same command to resume" in done.stdout
    assert publish.main(argv) == 0
    assert len(uploaded) == 1001 - len(images)


def test_publish_deletes_empty_folders_below_target_only(pets, folder):
    out = folder / "mine/pets"
    assert publish.main([str(pets), str(out)]) == 0
    for image in (out / "train").rglob("*.jpg"):
        image.rename(image.with_name(f"old-{image.name}"))
    target = targets.open_target(str(out), None)
    target.delete(files(out))
    assert list((folder / "mine").iterdir()) == [out] and list(out.iterdir()) == []


def test_publish_dry_run_counts_replaced_and_deleted_images(pets, folder, capsys):
    assert publish.main([str(pets), str(folder / "out")]) == 0
    (pets / "train/a/000.jpg").write_bytes((pets / "train/b/000.jpg").read_bytes())
    (pets / "train/a/001.jpg").unlink()
    assert publish.main([str(pets), str(folder / "out"), "dry_run=true", "delete=true"]) == 0
    out = capsys.readouterr().out
    assert "1 of them replacing others, 14 unchanged, 1 would be deleted" in out


def test_publish_keep_copies_publishes_all_copies(pets, folder, capsys):
    (pets / "train/a/copy.jpg").write_bytes((pets / "test/a/000.jpg").read_bytes())
    assert publish.main([str(pets), str(folder / "out"), "keep_copies=true"]) == 0
    assert "17 images uploaded" in capsys.readouterr().out


def test_published_prefix_is_read_by_the_data_module(pets, bucket, s3_server):
    from dogbreed import ImageDataModule, InputSpec

    assert to_s3(s3_server, pets, bucket) == 0
    data = ImageDataModule(f"s3://{bucket.name}/dogs", endpoint_url=s3_server.url, input_spec=InputSpec(32, 32))
    assert (data.classes, data.class_counts) == (["a", "b"], {"train": [4, 4], "val": [2, 2], "test": [2, 2]})
    assert sum(len(batch.labels) for batch in data.test_dataloader()) == 4
    assert data.bad_images == {}
