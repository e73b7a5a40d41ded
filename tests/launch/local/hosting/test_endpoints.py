"""Endpoints on this machine: real processes and HTTP behind boto3's own clients, a server of a few lines inside."""

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

from launch.local import local_runtime
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
    """Makes a model and an endpoint configuration called `name`."""
    container = {"Image": "dogbreed", "ModelDataUrl": pack_model(root / name, says=name, **card)}
    client.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])


def wait(client, name, status):
    def there():
        found = client.describe_endpoint(EndpointName=name)
        return found if found["EndpointStatus"] == status else None

    return eventually(there)


def ask(runtime, name, text):
    answer = runtime.invoke_endpoint(EndpointName=name, ContentType="application/x-image", Body=text.encode())
    return json.loads(answer["Body"].read())


@pytest.fixture
def dogs(client, root):
    configure(client, root, "dogs")
    client.create_endpoint(EndpointName="dogs", EndpointConfigName="dogs")
    wait(client, "dogs", "InService")
    return state_of(root / "endpoints/dogs")


def test_an_endpoint_answers_until_it_is_deleted_and_then_nothing_of_it_runs(client, runtime, root, dogs):
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


def test_deleting_lets_the_server_finish_what_it_answers(client, runtime, root, dogs):
    with concurrent.futures.ThreadPoolExecutor() as threads:
        late = threads.submit(ask, runtime, "dogs", "slow 001.Pug")
        eventually(lambda: list((root / "endpoints/dogs/models").glob("*/answering")))
        client.delete_endpoint(EndpointName="dogs")
        assert late.result()["predicted_label"] == "001"


def test_it_outlives_the_process_that_made_it(root):
    configure(make_client(root, serve=SERVE), root, "dogs")
    code = (
        "import sys; from pathlib import Path; from launch.local import local_client;"
        f"client = local_client(Path({str(root)!r}), serve={SERVE!r});"
        "client.create_endpoint(EndpointName='dogs', EndpointConfigName='dogs')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    client = make_client(root)
    wait(client, "dogs", "InService")
    assert ask(local_runtime(root), "dogs", "1.a")["class_name"] == "a"
    client.delete_endpoint(EndpointName="dogs")


@pytest.mark.parametrize(("victim", "reason"), [("pid", "killed by signal 9"), ("host", "its supervisor process")])
def test_one_that_is_killed_is_noticed_and_can_be_deleted(client, runtime, root, dogs, victim, reason):
    host = psutil.Process(dogs["pid"]).ppid()
    os.kill(host if victim == "host" else dogs["pid"], signal.SIGKILL)
    found = wait(client, "dogs", "Failed")
    assert reason in found["FailureReason"]
    assert "serving dogs" in found["FailureReason"] or victim == "host"
    eventually(lambda: not is_running(dogs["pid"]))
    with pytest.raises(runtime.exceptions.ClientError, match="Endpoint dogs of account 000000000000 not found"):
        ask(runtime, "dogs", "1.a")
    with pytest.raises(ClientError, match="it is in status Failed"):
        client.update_endpoint(EndpointName="dogs", EndpointConfigName="dogs")
    client.delete_endpoint(EndpointName="dogs")
    eventually(lambda: client.list_endpoints()["Endpoints"] == [])


def test_a_model_that_can_not_be_served_fails_with_the_last_line_of_its_log(client, root):
    configure(client, root, "poor", broken=True)
    client.create_endpoint(EndpointName="poor", EndpointConfigName="poor")
    reason = wait(client, "poor", "Failed")["FailureReason"]
    assert "before it could answer: exit code 1" in reason and "the header is no JSON" in reason
    (root / "poor/output/model.tar.gz").write_bytes(b"no archive")
    client.create_endpoint(EndpointName="torn", EndpointConfigName="poor")
    assert "model.tar.gz cannot be unpacked" in wait(client, "torn", "Failed")["FailureReason"]


def test_an_update_to_an_archive_that_is_cut_short_changes_nothing(client, runtime, root, dogs):
    configure(client, root, "cut")
    archive = root / "cut/output/model.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        tar.add(__file__, "model.json")
    archive.write_bytes(archive.read_bytes()[:2000])
    client.update_endpoint(EndpointName="dogs", EndpointConfigName="cut")
    eventually(lambda: "FailureReason" in client.describe_endpoint(EndpointName="dogs"))
    after = wait(client, "dogs", "InService")
    assert after["EndpointConfigName"] == "dogs" and "cannot be unpacked" in after["FailureReason"]
    assert ask(runtime, "dogs", "1.a")["class_name"] == "a"


def test_a_host_that_is_killed_in_an_update_leaves_neither_server(client, root, dogs):
    configure(client, root, "slow", startup_s=1000)
    client.update_endpoint(EndpointName="dogs", EndpointConfigName="slow")
    coming = eventually(lambda: state_of(root / "endpoints/dogs").get("coming"))
    os.kill(psutil.Process(dogs["pid"]).ppid(), signal.SIGKILL)
    wait(client, "dogs", "Failed")
    eventually(lambda: not is_running(dogs["pid"]) and not is_running(coming["pid"]))


def test_an_update_changes_the_model_without_a_gap_and_a_failed_one_changes_nothing(client, runtime, root, dogs):
    configure(client, root, "better", waits_for=str(root / "go"))
    configure(client, root, "worse", broken=True)
    said, failed, stop = set(), [], threading.Event()

    def keep_asking():
        while not stop.is_set():
            try:
                said.add(ask(runtime, "dogs", "1.a")["top_k"][1]["class_name"])
            except ClientError as error:
                failed.append(error)

    asking = threading.Thread(target=keep_asking, daemon=True)
    asking.start()
    client.update_endpoint(EndpointName="dogs", EndpointConfigName="better")
    assert client.describe_endpoint(EndpointName="dogs")["EndpointStatus"] == "Updating"
    with pytest.raises(ClientError, match="it is in status Updating"):
        client.update_endpoint(EndpointName="dogs", EndpointConfigName="dogs")
    (root / "go").touch()
    assert wait(client, "dogs", "InService")["EndpointConfigName"] == "better"
    eventually(lambda: "better" in said)
    eventually(lambda: not is_running(dogs["pid"]))
    client.update_endpoint(EndpointName="dogs", EndpointConfigName="worse")
    eventually(lambda: "FailureReason" in client.describe_endpoint(EndpointName="dogs"))
    after = wait(client, "dogs", "InService")
    stop.set()
    asking.join()
    assert after["EndpointConfigName"] == "better" and "the update failed" in after["FailureReason"]
    assert (said, failed) == ({"dogs", "better"}, [])


def test_what_the_server_refuses_is_a_model_error_as_at_aws(runtime, dogs):
    with pytest.raises(runtime.exceptions.ModelError) as error:
        ask(runtime, "dogs", "bad image")
    found = error.value.response
    assert (found["OriginalStatusCode"], found["Error"]["Code"]) == (400, "ModelError")
    assert "cannot be read as an image" in found["OriginalMessage"]
    assert "Received client error (400) from primary" in str(error.value)


def test_what_is_missing_or_not_possible_here_is_said(client, root):
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
    with pytest.raises(ClientError, match="DataCaptureConfig: not done on this machine"):
        client.create_endpoint_config(
            EndpointConfigName="captured", ProductionVariants=variants, DataCaptureConfig=capture
        )


def test_boto3_of_another_process_asks_over_http(aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", aws.url)
    aws.service.hosting.command = list(SERVE)
    client, runtime = boto3.client("sagemaker"), boto3.client("sagemaker-runtime")
    configure(client, aws.root, "dogs")
    client.create_endpoint(EndpointName="dogs", EndpointConfigName="dogs", Tags=[{"Key": "a", "Value": "b"}])
    found = wait(client, "dogs", "InService")
    assert client.list_tags(ResourceArn=found["EndpointArn"])["Tags"] == [{"Key": "a", "Value": "b"}]
    assert ask(runtime, "dogs", "069.French_bulldog")["confidence"] == 0.75
    with pytest.raises(runtime.exceptions.ModelError, match=r"Received client error \(400\)"):
        ask(runtime, "dogs", "bad image")
    with pytest.raises(runtime.exceptions.ValidationError, match="Endpoint cats of account 000000000000 not found"):
        ask(runtime, "cats", "1.a")
    client.delete_endpoint(EndpointName="dogs")
    eventually(lambda: client.list_endpoints()["Endpoints"] == [])
