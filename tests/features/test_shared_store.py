"""Features shared through S3, on a server that checks every signature."""

import threading

import numpy as np
import pytest

from dogbreed.cli.config import compose, resolve_defaults
from dogbreed.errors import UserError
from dogbreed.features import shared_store
from dogbreed.features.extract import FeatureExtractor
from dogbreed.features.shared_store import SharedFeatures
from dogbreed.features.store import FeatureFiles
from dogbreed.run.train import train

DEMO = "demo://?classes=3&train=12&valid=6&test=6&size=32"


@pytest.fixture
def bucket(s3_server, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_store, "SETTLE_S", 0.2)
    monkeypatch.setattr(shared_store, "POLL_S", 0.1)
    name = tmp_path.name.replace("_", "-")[-40:].strip("-")
    (s3_server.root / name).mkdir()
    return f"s3://{name}/features", s3_server


def test_second_machine_downloads_what_the_first_computed(bucket, tmp_path, monkeypatch, caplog):
    url, server = bucket
    caplog.set_level("INFO")
    computed = []
    extract = FeatureExtractor.extract
    monkeypatch.setattr(FeatureExtractor, "extract", lambda *a: (computed.append(a[1].name), extract(*a)))

    def run(machine):
        places = [f"output_dir={tmp_path}/{machine}", f"features.folder={tmp_path}/{machine}/features"]
        tiny = ["model=timm", "model.name=test_resnet", f"data.url='{DEMO}'", "data.augment=false", "finetune=head"]
        sharing = [f"features.url={url}", f"features.endpoint_url={server.url}", "debugger=off", "trainer=cpu"]
        return train(resolve_defaults(compose("train", [*tiny, *places, *sharing, "epochs=1"])))

    first, second = run("a"), run("b")
    assert computed == ["train", "val", "test"]
    assert (first["epochs"], first["test"]) == (second["epochs"], second["test"])
    assert f"features of train downloaded from {url}" in caplog.text
    left = sorted(path.name for path in server.root.rglob("features/*/*"))
    assert left == sorted(f"{name}.{kind}" for name in computed for kind in ("json", "npy"))


def test_one_of_two_jobs_computes_and_the_other_waits(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_store, "SETTLE_S", 2.0)
    url, server = bucket
    computed = []

    def job(number):
        mine = SharedFeatures(url, "key", server.url)
        files = FeatureFiles(tmp_path / str(number), "key", 1.0)
        files.path.mkdir(parents=True)
        if not mine.fetch_or_claim("train", files.path):
            with mine.computing("train", files.path), files.writing("train", (2, 3), {"problems": {}}) as values:
                computed.append(number)
                values[:] = number

    threads = [threading.Thread(target=job, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(computed) == 1
    for number in (1, 2):
        assert np.all(FeatureFiles(tmp_path / str(number), "key", 1.0).open("train").values == computed[0])


def test_features_of_an_outage_are_not_uploaded(bucket, tmp_path):
    url, server = bucket
    for number in (1, 2):
        job, files = SharedFeatures(url, "key", server.url), FeatureFiles(tmp_path / str(number), "key", 1.0)
        assert not job.fetch_or_claim("train", files.path)
        writing = files.writing("train", (2, 3), {"problems": {}})
        with files.locked(), job.computing("train", files.path), writing as values:
            values[1] = number
            files.keep_in_memory("train", values, {"0": "no answer"})
        features = files.open("train")
        assert features.values.tolist() == [[0.0] * 3, [number] * 3] and features.problems == {0: "no answer"}
    assert not [path for path in (server.root / url.split("/")[2]).rglob("*") if path.is_file()]


def test_stale_claim_is_taken_over(bucket, tmp_path, monkeypatch, caplog):
    url, server = bucket
    caplog.set_level("INFO")
    assert not SharedFeatures(url, "key", server.url).fetch_or_claim("train", tmp_path)  # and never renews its claim
    waiting = SharedFeatures(url, "key", server.url)
    assert not waiting._claim("train")
    monkeypatch.setattr(shared_store, "STALE_S", 0.5)
    assert not waiting.fetch_or_claim("train", tmp_path)
    assert "stopped renewing its claim" in caplog.text


def test_claim_is_renewed_and_deleted_with_its_job(bucket, tmp_path, monkeypatch):
    url, server = bucket
    monkeypatch.setattr(shared_store, "HEARTBEAT_S", 0.05)
    job, other = (SharedFeatures(url, "key", server.url) for _ in range(2))
    assert not job.fetch_or_claim("train", tmp_path)
    written = []
    put = job._put
    monkeypatch.setattr(job, "_put", lambda name: (written.append(name), put(name)))
    with pytest.raises(ZeroDivisionError), job.computing("train", tmp_path):
        while len(written) < 2:
            pass
        raise ZeroDivisionError
    assert other._head("train", "claim") is None


def test_wrong_url_or_bucket_is_a_user_error(bucket, tmp_path):
    _, server = bucket
    with pytest.raises(UserError, match=r"features.url=/tmp/x: give s3://BUCKET/PREFIX"):
        SharedFeatures("/tmp/x", "key", None)
    with pytest.raises(UserError, match=r"features.url=s3://nosuch/x: .*NoSuchBucket"):
        SharedFeatures("s3://nosuch/x", "key", server.url).fetch_or_claim("train", tmp_path)
