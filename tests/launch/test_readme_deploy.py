"""The documented commands of deployment and prediction, run as typed, against a prepared training."""

import functools
import shlex
from pathlib import Path

from launch import deploy, endpoints, predict, undeploy
from launch.backends.local import LocalBackend
from launch.local.api.boto_client import local_client
from tests.documents import commands
from tests.launch.cloud import BUCKET, ROLE
from tests.launch.hosting.test_deploy_aws import AWS
from tests.launch.local_jobs import SERVE, end_endpoints, pack_model, put_training
from tests.paths import ROOT

LINES = [line for line in commands(ROOT / "docs" / "how-to" / "endpoint.md") if line.startswith("python -m ")]
MAINS = {module.__name__: module.main for module in (deploy, predict, undeploy, endpoints)}


def run(line, *more):
    module, *words = shlex.split(line.replace("ROLE_ARN", ROLE).replace("s3://BUCKET", f"s3://{BUCKET}"))[2:]
    return MAINS[module]([word.replace("PATH", ".") for word in words] + list(more))


def test_readme_deploy_commands_run_locally(tmp_path, monkeypatch, s3_server, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("launch.local.api.boto_client.local_client", functools.partial(local_client, serve=SERVE))
    monkeypatch.setattr(LocalBackend, "poll_s", 0.05)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    put_training(Path("outputs/dogs-1"))
    pack_model(Path("outputs/dogs-1"))
    for folder in (Path(), Path("dogImages/test/001.Pug"), s3_server.root / BUCKET / "dogImages/test/001.Pug"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("photo.jpg", "other.png"):
            (folder / name).write_text("001.Pug")
    local = [line for line in LINES if "backend=sagemaker" not in line]
    assert {line.split()[2] for line in local} == set(MAINS)
    try:
        for line in local:
            assert run(line) == 0, line
    finally:
        end_endpoints("outputs")
    assert "accuracy, taking folders as classes: 1.0000 (2 of 2)" in capsys.readouterr().out
    assert Path("predictions.csv").is_file() and Path("test.csv").is_file()


def test_readme_deploy_aws_commands_dry_run(aws, capsys):
    put_training(aws.root / "dogs-1")
    pack_model(aws.root / "dogs-1")
    there = [line for line in LINES if "backend=sagemaker" in line]
    assert len(there) >= 3
    for line in there:
        assert run(line, "dry_run=true", *[word for word in AWS if "role" not in word]) == 0
        assert '"CreateEndpoint"' in capsys.readouterr().out
