"""Endpoints on this machine: real processes and HTTP behind boto3 clients, with a model server of a few lines."""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import urllib.request

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError

from launch.local.hosting.runtime import local_runtime
from tests.launch.local_jobs import (
    ROLE,
    SERVE,
    end_endpoints,
    eventually,
    is_running,
    make_client,
    pack_model,
    state_of,
)


@pytest.fixture
def root(tmp_path):
    yield tmp_path
    end_endpoints(tmp_path)


@pytest.fixture
def client(root):
    return make_client(root, serve=SERVE)


@pytest.fixture
def runtime(root):
    return local_runtime(root)


def configure(client, root, name, **card):
    """Creates a model and an endpoint configuration called `name`."""
    container = {"Image": "dogbreed", "ModelDataUrl": pack_model(root / name, other=name, **card)}
    client.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])


def wait(client, name, status):
    def reached():
        found = client.describe_endpoint(EndpointName=name)
        return found if found["EndpointStatus"] == status else None

    return eventually(reached)


def invoke(runtime, name, text):
    answer = runtime.invoke_endpoint(EndpointName=name, ContentType="application/x-image", Body=text.encode())
    return json.loads(answer["Body"].read())


@pytest.fixture
def dogs(client, root):
    configure(client, root, "dogs")
    client.create_endpoint(EndpointName="dogs", EndpointConfigName="dogs")
    wait(client, "dogs", "InService")
    return state_of(root / "endpoints/dogs")


def test_endpoint_serves_until_deleted_and_leaves_nothing(client, runtime, root, dogs):
    found = client.describe_endpoint(EndpointName="dogs")
    assert (found["EndpointConfigName"], found["ProductionVariants"][0]["CurrentInstanceCount"]) == ("dogs", 1)
    answer = runtime.invoke_endpoint(EndpointName="dogs", ContentType="image/jpeg", Body=b"069.French_bulldog")
    assert json.loads(answer["Body"].read())["class_name"] == "French_bulldog"
    assert (answer["ContentType"], answer["InvokedProductionVariant"]) == ("application/json", "AllTraffic")
    assert urllib.request.urlopen(f"http://127.0.0.1:{dogs['port']}/ping").status == 200
    assert [e["EndpointName"] for e in client.list_endpoints(StatusEquals="InService")["Endpoints"]] == ["dogs"]
    client.delete_endpoint(EndpointName="dogs")
    client.get_waiter("endpoint_deleted").wait(EndpointName="dogs", WaiterConfig={"Delay": 1, "MaxAttempts": 20})
    eventually(lambda: not is_running(dogs["pid"]))
    assert client.list_endpoints()["Endpoints"] == []
    client.delete_endpoint_config(EndpointConfigName="dogs")
    client.delete_model(ModelName="dogs")
    assert client.list_models()["Models"] == client.list_endpoint_configs()["EndpointConfigs"] == []
    assert not list((root / "endpoints").glob("[!_]*")) and not list((root / "endpoints").glob("_gone*"))


def test_delete_lets_open_requests_finish(client, runtime, root, dogs):
    with concurrent.futures.ThreadPoolExecutor() as threads:
        late = threads.submit(invoke, runtime, "dogs", "slow 001.Pug")
        eventually(lambda: list((root / "endpoints/dogs/models").glob("*/answering")))
        client.delete_endpoint(EndpointName="dogs")
        assert late.result()["predicted_label"] == "001"


def test_endpoint_outlives_its_creator(root):
    configure(make_client(root, serve=SERVE), root, "dogs")
    code = (
        "import sys; from pathlib import Path; from launch.local.api.boto_client import local_client;"
        f"client = local_client(Path({str(root)!r}), serve={SERVE!r});"
        "client.create_endpoint(EndpointName='dogs', EndpointConfigName='dogs')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    client = make_client(root)
    wait(client, "dogs", "InService")
    assert invoke(local_runtime(root), "dogs", "1.a")["class_name"] == "a"
    client.delete_endpoint(EndpointName="dogs")


@pytest.mark.parametrize(
    ("victim", "reason"), [("server", "killed by signal 9"), ("supervisor", "the supervisor process")]
)
def test_killed_endpoint_fails_and_can_be_deleted(client, runtime, root, dogs, victim, reason):
    supervisor = psutil.Process(dogs["pid"]).ppid()
    os.kill(supervisor if victim == "supervisor" else dogs["pid"], signal.SIGKILL)
    found = wait(client, "dogs", "Failed")
    assert reason in found["FailureReason"]
    assert "serving dogs" in found["FailureReason"] or victim == "supervisor"
    eventually(lambda: not is_running(dogs["pid"]))
    with pytest.raises(runtime.exceptions.ClientError, match="Endpoint dogs of account 000000000000 not found"):
        invoke(runtime, "dogs", "1.a")
    with pytest.raises(ClientError, match="it is in status Failed"):
        client.update_endpoint(EndpointName="dogs", EndpointConfigName="dogs")
    client.delete_endpoint(EndpointName="dogs")
    eventually(lambda: client.list_endpoints()["Endpoints"] == [])


def test_unusable_model_fails_with_last_log_line(client, root):
    configure(client, root, "poor", broken=True)
    client.create_endpoint(EndpointName="poor", EndpointConfigName="poor")
    reason = wait(client, "poor", "Failed")["FailureReason"]
    assert "before it was ready: exit code 1" in reason and "the header is not JSON" in reason
    (root / "poor/output/model.tar.gz").write_bytes(b"no archive")
    client.create_endpoint(EndpointName="torn", EndpointConfigName="poor")
    assert "model.tar.gz cannot be unpacked" in wait(client, "torn", "Failed")["FailureReason"]


def test_update_to_truncated_archive_changes_nothing(client, runtime, root, dogs):
    configure(client, root, "cut")
    archive = root / "cut/output/model.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        tar.add(__file__, "model.json")
    archive.write_bytes(archive.read_bytes()[:2000])
    client.update_endpoint(EndpointName="dogs", EndpointConfigName="cut")
    eventually(lambda: "FailureReason" in client.describe_endpoint(EndpointName="dogs"))
    after = wait(client, "dogs", "InService")
    assert after["EndpointConfigName"] == "dogs" and "cannot be unpacked" in after["FailureReason"]
    assert invoke(runtime, "dogs", "1.a")["class_name"] == "a"


def test_supervisor_killed_in_update_leaves_no_server(client, root, dogs):
    configure(client, root, "slow", startup_s=1000)
    client.update_endpoint(EndpointName="dogs", EndpointConfigName="slow")
    following = eventually(lambda: state_of(root / "endpoints/dogs").get("next"))
    os.kill(psutil.Process(dogs["pid"]).ppid(), signal.SIGKILL)
    wait(client, "dogs", "Failed")
    eventually(lambda: not is_running(dogs["pid"]) and not is_running(following["pid"]))


def test_update_has_no_gap_and_failed_update_no_effect(client, runtime, root, dogs):
    configure(client, root, "better", waits_for=str(root / "go"))
    configure(client, root, "worse", broken=True)
    answers, failed, stop = set(), [], threading.Event()

    def keep_invoking():
        while not stop.is_set():
            try:
                answers.add(invoke(runtime, "dogs", "1.a")["top_k"][1]["class_name"])
            except ClientError as error:
                failed.append(error)

    invoking = threading.Thread(target=keep_invoking, daemon=True)
    invoking.start()
    client.update_endpoint(EndpointName="dogs", EndpointConfigName="better")
    assert client.describe_endpoint(EndpointName="dogs")["EndpointStatus"] == "Updating"
    with pytest.raises(ClientError, match="it is in status Updating"):
        client.update_endpoint(EndpointName="dogs", EndpointConfigName="dogs")
    (root / "go").touch()
    assert wait(client, "dogs", "InService")["EndpointConfigName"] == "better"
    eventually(lambda: "better" in answers)
    eventually(lambda: not is_running(dogs["pid"]))
    client.update_endpoint(EndpointName="dogs", EndpointConfigName="worse")
    eventually(lambda: "FailureReason" in client.describe_endpoint(EndpointName="dogs"))
    after = wait(client, "dogs", "InService")
    stop.set()
    invoking.join()
    assert after["EndpointConfigName"] == "better" and "the update failed" in after["FailureReason"]
    assert (answers, failed) == ({"dogs", "better"}, [])
    eventually(lambda: [path.name for path in (root / "endpoints/dogs/models").iterdir()] == ["better"])


def test_server_error_is_a_model_error(runtime, dogs):
    with pytest.raises(runtime.exceptions.ModelError) as error:
        invoke(runtime, "dogs", "bad image")
    found = error.value.response
    assert (found["OriginalStatusCode"], found["Error"]["Code"]) == (400, "ModelError")
    assert "cannot be read as an image" in found["OriginalMessage"]
    assert "Received client error (400) from primary" in str(error.value)


def test_missing_or_unsupported_resources_are_rejected(client, root):
    for call, message in (
        (lambda: client.describe_endpoint(EndpointName="x"), 'Could not find endpoint ".*endpoint/x"'),
        (lambda: client.delete_endpoint(EndpointName="x"), "Could not find endpoint"),
        (lambda: client.create_endpoint(EndpointName="x", EndpointConfigName="y"), "Could not find endpoint config"),
        (lambda: client.describe_model(ModelName="x"), "Could not find model"),
        (lambda: client.create_model(ModelName="x", ExecutionRoleArn=ROLE), "PrimaryContainer.ModelDataUrl: missing"),
        (
            lambda: client.create_model(
                ModelName="x", PrimaryContainer={"Image": "i", "ModelDataUrl": "s3://local/none/model.tar.gz"}
            ),
            "Could not access model data at s3://local/none/model.tar.gz",
        ),
        (lambda: client.create_endpoint(EndpointName="_x", EndpointConfigName="y"), "does not match the pattern"),
    ):
        with pytest.raises(ClientError, match=message):
            call()
    configure(client, root, "twice")
    variants = [{"VariantName": "a", "ModelName": "twice", "InstanceType": "ml.m5.large"}]
    with pytest.raises(ClientError, match="Cannot create already existing endpoint configuration"):
        client.create_endpoint_config(EndpointConfigName="twice", ProductionVariants=variants)
    capture = {
        "InitialSamplingPercentage": 1,
        "DestinationS3Uri": "s3://b/c",
        "CaptureOptions": [{"CaptureMode": "Input"}],
    }
    with pytest.raises(ClientError, match="DataCaptureConfig: not supported on this machine"):
        client.create_endpoint_config(
            EndpointConfigName="captured", ProductionVariants=variants, DataCaptureConfig=capture
        )


def test_boto3_invokes_endpoint_over_http(aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", aws.url)
    aws.service.endpoints.command = list(SERVE)
    client, runtime = boto3.client("sagemaker"), boto3.client("sagemaker-runtime")
    configure(client, aws.root, "dogs")
    client.create_endpoint(EndpointName="dogs", EndpointConfigName="dogs", Tags=[{"Key": "a", "Value": "b"}])
    found = wait(client, "dogs", "InService")
    assert client.list_tags(ResourceArn=found["EndpointArn"])["Tags"] == [{"Key": "a", "Value": "b"}]
    assert invoke(runtime, "dogs", "069.French_bulldog")["confidence"] == 0.75
    with pytest.raises(runtime.exceptions.ModelError, match=r"Received client error \(400\)"):
        invoke(runtime, "dogs", "bad image")
    with pytest.raises(runtime.exceptions.ValidationError, match="Endpoint cats of account 000000000000 not found"):
        invoke(runtime, "cats", "1.a")
    client.delete_endpoint(EndpointName="dogs")
    eventually(lambda: client.list_endpoints()["Endpoints"] == [])
