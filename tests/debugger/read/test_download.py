from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dogbreed.debugger.read.download import download
from dogbreed.debugger.read.reader import read_run
from dogbreed.debugger.read.sources import read_any, run_folders
from dogbreed.errors import UserError
from tests.debugger.tiny import TinyData, TinyModel, train

if TYPE_CHECKING:
    from conftest import S3Server


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a bucket that boto3 reaches over HTTP."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    path = s3_server.root / "debugger-reports"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def test_download_old_sagemaker_job(bucket: Path, tmp_path: Path):
    pytest.importorskip("smdebug", reason="smdebug is not installed: pip install -e '.[debug]'")
    job = tmp_path / "job"
    parts = {"smdebug": {"enabled": True, "save_interval": 2}, "profiler": {"enabled": True, "interval_ms": 100}}
    train(job, TinyModel(), TinyData((32, 32), batch_size=16, val=8), 2, parts, test=False)
    for part in ("debug-output", "profiler-output"):
        shutil.copytree(job / part, bucket / "jobs" / "dogs-1" / part)
    (bucket / "jobs" / "dogs-1" / "output").mkdir()
    (bucket / "jobs" / "dogs-1" / "output" / "model.tar.gz").write_bytes(b"large")
    folder = download("s3://debugger-reports/jobs/dogs-1", tmp_path)
    assert folder == tmp_path / "dogs-1"
    assert not (folder / "output").exists()
    assert {"losses", "gradients", "weights", "system"} <= set(read_any(folder).inputs)


def test_download_jobs_of_a_sweep(finished_run: Path, bucket: Path, tmp_path: Path):
    for trial in ("dogs-001-ab", "dogs-002-cd"):
        archive = bucket / "dogs" / trial / "output" / "output.tar.gz"
        archive.parent.mkdir(parents=True)
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(finished_run, arcname=".")
    folders = run_folders(download("s3://debugger-reports/dogs", tmp_path))
    assert [folder.name for folder in folders] == ["dogs-001-ab", "dogs-002-cd"]
    assert read_run(folders[1]).inputs["predictions"].split == "test"
    archive.write_bytes(archive.read_bytes()[:1000])
    with pytest.raises(UserError, match="is damaged"):
        download("s3://debugger-reports/dogs", tmp_path)


@pytest.mark.parametrize(("url", "message"), [("debugger-reports/no", "debug-output/"), ("no", "NoSuchBucket")])
def test_download_of_nothing_is_a_user_error(bucket: Path, tmp_path: Path, url: str, message: str):
    with pytest.raises(UserError, match=message):
        download(f"s3://{url}", tmp_path)


def test_download_with_a_wrong_key_is_a_user_error(bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match="credentials"):
        download("s3://debugger-reports/jobs", tmp_path)
