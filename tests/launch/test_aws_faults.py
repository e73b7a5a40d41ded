"""Every request that changes something at AWS, under faults of the network: nothing duplicated, lost or foreign."""

import boto3
import pytest

from launch import deploy, train, tune, undeploy
from launch.spec.limits import SERVICES
from tests.launch.cloud import BUCKET, EXPLICIT, ROLE
from tests.launch.faulty_proxy import FAULTS, FaultyProxy
from tests.launch.local_jobs import SERVE, end_endpoints, pack_model, put_training

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312"
HOSTING = [
    "backend=sagemaker",
    f"backend.role={ROLE}",
    f"backend.bucket={BUCKET}",
    f"backend.inference_image='{IMAGE}'",
]
DEPLOY = ["from_training=dogs", "autoscaling.max_count=4", *HOSTING, "backend=sagemaker"]
UPDATE = ["from_training=dogs", "top_k=3", "instance.price_per_hour=0.5", *HOSTING, "backend=sagemaker"]
THEIRS = "dogs-1a2b3c4d"
"""A foreign model and endpoint configuration, named as the launcher names its own."""


@pytest.fixture
def cloud(aws, moto_url, monkeypatch):
    """AWS behind a proxy for SageMaker and one for the other services, with a training and foreign resources."""
    aws.service.endpoints.command = list(SERVE)
    put_training(aws.root / "dogs")
    pack_model(aws.root / "dogs")
    client = boto3.client("sagemaker", endpoint_url=aws.url)
    client.create_model(ModelName=THEIRS, PrimaryContainer={"Image": "a", "ModelDataUrl": _url("dogs")})
    variant = {"VariantName": "a", "ModelName": THEIRS, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    client.create_endpoint_config(EndpointConfigName=THEIRS, ProductionVariants=[variant])
    proxies = [FaultyProxy(url) for url in (aws.url, moto_url)]
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", proxies[0].url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxies[1].url)
    aws.network_faults = proxies[1].faults = proxies[0].faults
    aws.client = client
    yield aws
    for proxy in proxies:
        proxy.shutdown()
        proxy.server_close()
    end_endpoints(aws.root)


def _url(name):
    return f"s3://local/{name}/output/model.tar.gz"


def hosted(client):
    """Returns endpoint to its configuration, and the models and configurations that are not foreign."""
    assert client.describe_model(ModelName=THEIRS) and client.describe_endpoint_config(EndpointConfigName=THEIRS)
    endpoints = {
        endpoint["EndpointName"]: client.describe_endpoint(EndpointName=endpoint["EndpointName"])["EndpointConfigName"]
        for endpoint in client.list_endpoints()["Endpoints"]
    }
    models = {model["ModelName"] for model in client.list_models()["Models"]} - {THEIRS}
    configs = {config["EndpointConfigName"] for config in client.list_endpoint_configs()["EndpointConfigs"]} - {THEIRS}
    return endpoints, models, configs


def scaled():
    client = boto3.client("application-autoscaling")
    targets = client.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    return len(targets), len(client.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"])


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_jobs_start_each_once(cloud, fault, capsys):
    calls = ("PutObject", "CreateHyperParameterTuningJob")
    cloud.network_faults.update(dict.fromkeys(calls, fault))
    assert tune.main(["lr=0.001,0.01", "tuner.max_jobs=2", "name=sweep", *EXPLICIT]) == 0
    assert not cloud.network_faults and len(cloud.keys()) == 1
    assert len(cloud.client.list_hyper_parameter_tuning_jobs()["HyperParameterTuningJobSummaries"]) == 1
    jobs = len(cloud.client.list_training_jobs()["TrainingJobSummaries"])
    cloud.network_faults.update({"CreateTrainingJob": fault})
    assert train.main(["lr=0.1", "name=alone", *EXPLICIT]) == 0
    assert not cloud.network_faults
    assert len(cloud.client.list_training_jobs()["TrainingJobSummaries"]) == jobs + 1


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_hosting_end_in_the_requested_state(cloud, fault, capsys):
    creating = ("CreateModel", "CreateEndpointConfig", "CreateEndpoint", *SERVICES)
    cloud.network_faults.update(dict.fromkeys(creating, fault))
    assert deploy.main(DEPLOY) == 0
    endpoints, models, configs = hosted(cloud.client)
    assert not cloud.network_faults and list(endpoints) == ["dogs"] and set(endpoints.values()) == models == configs
    assert scaled() == (1, 1)
    updating = ("CreateModel", "CreateEndpointConfig", "UpdateEndpoint", "AddTags", "DeregisterScalableTarget")
    cloud.network_faults.update(dict.fromkeys((*updating, "DeleteEndpointConfig", "DeleteModel"), fault))
    assert deploy.main(UPDATE) == 0
    before = models
    endpoints, models, configs = hosted(cloud.client)
    assert not cloud.network_faults and set(endpoints.values()) == models == configs != before
    assert scaled()[0] == 0
    cloud.network_faults.update(dict.fromkeys(("DeleteEndpoint", "DeleteEndpointConfig", "DeleteModel"), fault))
    assert undeploy.main(["dogs", "backend=sagemaker"]) == 0
    assert not cloud.network_faults and hosted(cloud.client) == ({}, set(), set())
