"""AWS simulated on one machine: moto for S3, STS, IAM and logs, LocalSageMaker over HTTP for SageMaker."""

import functools
import os
import threading

import boto3
import pytest

from launch.backends.aws import session
from launch.backends.aws.backend import AwsBackend
from launch.backends.local import LocalBackend
from launch.local.api.boto_client import local_client
from launch.local.api.operations import LocalSageMaker
from launch.local.server import Server
from tests.launch.cloud import BUCKET, STAND_IN, Faulty
from tests.launch.local_jobs import SERVE, end_endpoints, state_of
from tests.launch.served import train


@pytest.fixture(scope="session")
def moto_url():
    """A moto server for the whole session: S3, STS, IAM, CloudWatch logs."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed: pip install -e .[dev]")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def credentials(monkeypatch, tmp_path):
    """Fake credentials and a region; the user's are hidden."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "SAGEMAKER_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.fixture
def aws(credentials, moto_url, monkeypatch, tmp_path):
    """AWS behind HTTP, with stand-in jobs and an empty bucket."""
    import urllib.request

    urllib.request.urlopen(urllib.request.Request(f"{moto_url}/moto-api/reset", method="POST")).read()
    service = Faulty(LocalSageMaker(tmp_path / "cloud", STAND_IN, stop_grace_s=2))
    server = Server(service)
    thread = threading.Thread(target=server.run)
    thread.start()
    service.url = server.url
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", service.url)
    monkeypatch.setattr(AwsBackend, "poll_s", 0.2)
    monkeypatch.chdir(tmp_path)
    service.s3 = boto3.client("s3")
    service.s3.create_bucket(Bucket=BUCKET)
    service.keys = lambda: [o["Key"] for o in service.s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
    yield service
    server.should_exit = True
    thread.join()


@pytest.fixture
def stand_in_does(monkeypatch):
    """Sets the behaviour of stand-in jobs that start from here on; see tests/launch/stand_in.py."""
    return lambda behaviour: monkeypatch.setenv("DOGBREED_STAND_IN", behaviour)


@pytest.fixture
def impatient(monkeypatch):
    """A client with a timeout of three seconds and no retries."""
    from botocore.config import Config

    quick = Config(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=3, read_timeout=3)
    monkeypatch.setattr(session, "client_config", lambda **options: quick)


@pytest.fixture
def trained_dogs(tmp_path, monkeypatch):
    """A working folder with only a training called dogs, whose model can be served."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("launch.local.api.boto_client.local_client", functools.partial(local_client, serve=SERVE))
    monkeypatch.setattr(LocalBackend, "poll_s", 0.05)
    train("dogs")
    yield tmp_path
    end_endpoints("outputs")


@pytest.fixture
def dogs(trained_dogs, capsys):
    """The state of the endpoint dogs, in service."""
    from launch import deploy

    assert deploy.main(["from_training=dogs"]) == 0
    capsys.readouterr()
    return state_of("outputs/endpoints/dogs")
