"""`launch.deploy backend=sagemaker` over HTTP, with boto3's clients; moto serves S3 and autoscaling."""

import hashlib
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from dogbreed.errors import UserError
from launch import deploy, endpoints, predict, undeploy
from launch.backends.aws.backend import AwsBackend
from launch.spec.limits import SERVICES, check_request
from launch.spec.settings import compose
from tests.launch.cloud import BUCKET, ROLE, wait_for
from tests.launch.local_jobs import SERVE, end_endpoints, pack_model, put_training

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312"
AWS = ["backend=sagemaker", f"backend.role={ROLE}", f"backend.bucket={BUCKET}", f"backend.inference_image='{IMAGE}'"]


class Unreachable:
    """A client whose requests all fail with a connection error."""

    def describe_scalable_targets(self, **request):
        raise EndpointConnectionError(endpoint_url="https://autoscaling")


@pytest.fixture
def cloud(aws, monkeypatch):
    """AWS, with a training called dogs whose model can be served."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", aws.url)
    aws.service.endpoints.command = list(SERVE)
    put_training(aws.root / "dogs")
    pack_model(aws.root / "dogs", other="from the cloud")
    yield aws
    end_endpoints(aws.root)


def test_deploy_aws_predicts_and_lists_cost(cloud, capsys):
    Path("a.jpg").write_text("1.b")
    assert deploy.main(["from_training=dogs", "instance.count=2", "instance.price_per_hour=0.25", *AWS]) == 0
    printed = capsys.readouterr().out
    assert "AWS, 2 x ml.m5.large; 0.50 per hour, until it is deleted" in printed
    assert "python -m launch.undeploy dogs backend=sagemaker" in printed
    assert predict.main(["dogs", "a.jpg", "backend=sagemaker"]) == 0
    assert "from the cloud" in capsys.readouterr().out
    assert endpoints.main(["backend=sagemaker"]) == 0
    printed = capsys.readouterr().out  # the local service reports one instance
    assert re.search(r"dogs +│ InService +│ dogs +│ 1 x ml\.m5\.large.* 0\.25 │", printed)
    assert "1 running, 0.25 per hour" in printed
    assert deploy.main(["from_training=dogs", "name=cheap", *AWS]) == 0
    assert endpoints.main(["backend=sagemaker"]) == 0
    assert "2 running, 0.25 per hour, and 1 of unknown cost" in capsys.readouterr().out
    assert undeploy.main(["dogs", "backend=sagemaker"]) == 0
    assert len(cloud.sent("DeleteModel")) == len(cloud.sent("DeleteEndpointConfig")) == 1


def test_deploy_aws_dry_run_prints_all_options(cloud, capsys):
    words = [
        "autoscaling.max_count=4",
        "data_capture.percent=10",
        "+backend.tags.team=dogs",
        "backend.subnets=[subnet-1]",
    ]
    words += ["backend.security_groups=[sg-1]", "backend.volume_kms_key=k2", "backend.network_isolation=true"]
    assert deploy.main(["from_training=dogs", "dry_run=true", *words, *AWS]) == 0
    requests = json.loads(capsys.readouterr().out)
    assert not cloud.sent("CreateModel")
    operations = ["CreateModel", "CreateEndpointConfig", "CreateEndpoint", "RegisterScalableTarget", "PutScalingPolicy"]
    assert list(requests) == operations
    for operation, request in requests.items():
        assert check_request(operation, request) == []
    capture = requests["CreateEndpointConfig"]["DataCaptureConfig"]
    assert (capture["InitialSamplingPercentage"], capture["DestinationS3Uri"]) == (
        10,
        f"s3://{BUCKET}/dogbreed/captured",
    )
    assert requests["CreateModel"]["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert requests["RegisterScalableTarget"]["ResourceId"] == "endpoint/dogs/variant/AllTraffic"
    assert deploy.main(["from_training=dogs", "dry_run=true", "serverless.memory_mb=4096", *AWS]) == 0
    (variant,) = json.loads(capsys.readouterr().out)["CreateEndpointConfig"]["ProductionVariants"]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 4096, "MaxConcurrency": 10}
    assert "InstanceType" not in variant
    for extra in ("autoscaling.max_count=4", "instance.price_per_hour=1"):
        with pytest.raises(UserError, match=r"serverless"):
            deploy.main(["from_training=dogs", "serverless.memory_mb=4096", extra, *AWS])


def test_deploy_aws_autoscaling_follows_the_settings(cloud, capsys):
    assert deploy.main(["from_training=dogs", "autoscaling.max_count=4", *AWS]) == 0
    scaling = boto3.client("application-autoscaling")
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (target["ResourceId"], target["MaxCapacity"]) == ("endpoint/dogs/variant/AllTraffic", 4)
    (policy,) = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    assert policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 600
    assert deploy.main(["from_training=dogs", "autoscaling.max_count=4", "top_k=3", *AWS]) == 0
    assert cloud.sent("UpdateEndpoint")[0]["RetainAllVariantProperties"] is True
    assert undeploy.main(["dogs", "backend=sagemaker"]) == 0
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []


def test_deploy_aws_update_without_autoscaling_ends_it(cloud, capsys):
    assert deploy.main(["from_training=dogs", "autoscaling.max_count=4", *AWS]) == 0
    assert deploy.main(["from_training=dogs", "top_k=3", *AWS]) == 0
    scaling = boto3.client("application-autoscaling")
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []


def test_undeploy_aws_without_access_to_autoscaling_deletes(cloud, capsys, monkeypatch):
    assert deploy.main(["from_training=dogs", *AWS]) == 0
    monkeypatch.setattr(AwsBackend, "scaling_client", lambda self: Unreachable())
    assert undeploy.main(["dogs", "backend=sagemaker"]) == 0
    assert "autoscaling, if there is any, cannot be deregistered" in capsys.readouterr().out


def test_deploy_aws_local_training_uploads_model_once(cloud, capsys):
    put_training(Path("outputs/mine"))
    pack_model(Path("outputs/mine"), other="mine")
    content = Path("outputs/mine/output/model.tar.gz").read_bytes()
    key = f"dogbreed/models/{hashlib.sha256(content).hexdigest()[:16]}/model.tar.gz"
    assert deploy.main(["from_training=mine", "dry_run=true", *AWS]) == 0
    printed = capsys.readouterr()
    assert "mine is not on AWS but on this machine: uploading its model" in printed.err
    request = json.loads(printed.out)["CreateModel"]
    assert request["PrimaryContainer"]["ModelDataUrl"] == f"s3://{BUCKET}/{key}"
    assert cloud.keys() == []
    Path("a.jpg").write_text("1.b")
    assert deploy.main(["from_training=mine", *AWS]) == 0  # the local service downloads it again
    assert cloud.keys() == [key] and cloud.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == content
    assert predict.main(["mine", "a.jpg", "backend=sagemaker"]) == 0
    assert "mine" in capsys.readouterr().out
    with pytest.raises(UserError, match="no sweep or training is called 'unknown'"):
        deploy.main(["from_training=unknown", *AWS])


def test_deploy_aws_ctrl_c_detaches_and_resumes(cloud, capsys):
    put_training(cloud.root / "late")
    pack_model(cloud.root / "late", other="late", startup_s=2)

    def interrupt():
        wait_for(lambda: cloud.sent("CreateEndpoint") and cloud.requests[-1][0] == "DescribeEndpoint")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert deploy.main(["from_training=late", *AWS]) == 130
    thread.join()
    printed = capsys.readouterr().out
    assert "SIGINT: detached; the deployment of late continues" in printed
    assert "python -m launch.undeploy late backend=sagemaker" in printed
    assert deploy.main(["from_training=late", *AWS]) == 0
    assert len(cloud.sent("CreateEndpoint")) == 1 and not cloud.sent("UpdateEndpoint")


@pytest.mark.parametrize(
    ("operation", "fault", "message"),
    [
        ("CreateEndpoint", ("ResourceLimitExceeded", "limit reached"), "quota 'ml.m5.large for endpoint usage'"),
        ("CreateEndpointConfig", "AccessDeniedException", "lack this permission"),
        ("CreateModel", ("ValidationException", "Could not assume role arn"), "trust policy must name sagemaker"),
        ("CreateModel", "AccessDeniedException", "lack this permission"),
        ("DescribeEndpoint", "ExpiredTokenException", "the credentials have expired: log in again"),
    ],
)
def test_deploy_aws_rejected_request_leaves_nothing(cloud, operation, fault, message):
    cloud.faults = {operation: [fault]}
    with pytest.raises(UserError, match=message):
        deploy.main(["from_training=dogs", *AWS])
    client = boto3.client("sagemaker")
    assert client.list_models()["Models"] == client.list_endpoint_configs()["EndpointConfigs"] == []


def test_deploy_aws_network_down_is_one_line(cloud, impatient, monkeypatch):
    for name in ("AWS_ENDPOINT_URL_SAGEMAKER", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for main, words in ((deploy, ["from_training=dogs", *AWS]), (endpoints, ["backend=sagemaker"])):
        with pytest.raises(UserError, match="AWS cannot be reached") as error:
            main.main(words)
        assert "\n" not in str(error.value)


def test_deploy_aws_failure_prints_end_of_cloudwatch_log(cloud, capsys):
    put_training(cloud.root / "worse")
    pack_model(cloud.root / "worse", broken=True)
    logs, group, stream = boto3.client("logs"), "/aws/sagemaker/Endpoints/worse", "AllTraffic/i-0123"
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    events = [{"timestamp": round(time.time() * 1000) + i, "message": f"line {i} of the container"} for i in range(30)]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)
    assert deploy.main(["from_training=worse", *AWS]) == 1
    printed = capsys.readouterr().out
    assert "line 29 of the container" in printed and "line 9 of" not in printed
    assert "endpoint worse is Failed" in printed


def test_endpoint_log_ends_with_the_newest_lines_of_all_streams(cloud):
    logs, group = boto3.client("logs"), "/aws/sagemaker/Endpoints/busy"
    logs.create_log_group(logGroupName=group)
    now = round(time.time() * 1000)
    for stream in range(3):
        logs.create_log_stream(logGroupName=group, logStreamName=f"AllTraffic/i-{stream}")
        events = [{"timestamp": now - 1000 * line - stream, "message": f"{line} of {stream}"} for line in range(40)]
        events.reverse()
        logs.put_log_events(logGroupName=group, logStreamName=f"AllTraffic/i-{stream}", logEvents=events)
    lines = AwsBackend(compose("deploy", AWS).backend).endpoint_log("busy").tail(4)
    assert lines == ["1 of 0", "0 of 2", "0 of 1", "0 of 0"]


def test_deploy_aws_while_it_is_deleted_creates_it_again(cloud):
    assert deploy.main(["from_training=dogs", *AWS]) == 0
    boto3.client("sagemaker").delete_endpoint(EndpointName="dogs")
    assert deploy.main(["from_training=dogs", *AWS]) == 0
    assert boto3.client("sagemaker").describe_endpoint(EndpointName="dogs")["EndpointStatus"] == "InService"


def test_deploy_aws_requests_accepted_by_moto(cloud, moto_url, capsys):
    words = ["data_capture.percent=10", "autoscaling.max_count=2"]
    assert deploy.main(["from_training=dogs", "dry_run=true", *words, *AWS]) == 0
    requests = json.loads(capsys.readouterr().out)
    moto = boto3.client("sagemaker", endpoint_url=moto_url)
    moto.create_model(**requests["CreateModel"])
    moto.create_endpoint_config(**requests["CreateEndpointConfig"])
    moto.create_endpoint(**requests["CreateEndpoint"])
    for operation in SERVICES:
        scaling = boto3.client(SERVICES[operation], endpoint_url=moto_url)
        getattr(scaling, {"RegisterScalableTarget": "register_scalable_target"}.get(operation, "put_scaling_policy"))(
            **requests[operation]
        )
    config = moto.describe_endpoint_config(EndpointConfigName=requests["CreateEndpoint"]["EndpointConfigName"])
    assert config["ProductionVariants"][0]["InstanceType"] == "ml.m5.large"
    assert config["DataCaptureConfig"]["InitialSamplingPercentage"] == 10
    assert moto.describe_endpoint(EndpointName="dogs")["EndpointStatus"] == "InService"
    with pytest.raises(ClientError, match="Could not find"):
        moto.describe_endpoint(EndpointName="cats")
