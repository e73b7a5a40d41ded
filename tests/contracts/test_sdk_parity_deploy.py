"""The same endpoint through the SageMaker SDK's ModelBuilder, compared field by field; see test_sdk_parity.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.spec.requests.endpoint import TrainedModel, endpoint_requests
from launch.spec.requests.training import Target
from launch.spec.settings import compose
from tests.contracts.test_sdk_parity import OWNER, check, differences
from tests.launch.cloud import BUCKET, ROLE
from tests.launch.hosting.test_deploy_aws import IMAGE
from tests.launch.local_jobs import SERVE, end_endpoints, pack_model, put_training

TOOLKIT = "the inference toolkit's own settings; without a source_dir the SDK leaves them to the image's defaults"
SOURCE = "the SDK records the source of the model in a tag; ours is DOGBREED_TRAINING, which the server reads too"
REASONS = {
    "CreateModel.ModelName": "ours is named by its content, so repeating it is idempotent",
    "CreateModel.PrimaryContainer.Environment.SAGEMAKER_": TOOLKIT,
    "CreateModel.Tags[dogbreed:": OWNER,
    "CreateEndpointConfig.EndpointConfigName": "ours is named by its content",
    "CreateEndpointConfig.ProductionVariants[0].ModelName": "as above",
    "CreateEndpointConfig.Tags[dogbreed:": OWNER,
    "CreateEndpointConfig.Tags": SOURCE,
    "CreateEndpoint.EndpointConfigName": "as above",
    "CreateEndpoint.Tags[dogbreed:": OWNER,
    "CreateEndpoint.Tags": SOURCE,
}


def test_endpoint_requests_differences_from_sdk_explained(aws, monkeypatch):
    pytest.importorskip("sagemaker.core", reason="the SageMaker SDK is not installed: pip install -e .[sagemaker]")
    monkeypatch.setenv("SAGEMAKER_VALIDATE_ROLE", "false")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", aws.url)
    aws.service.endpoints.command = list(SERVE)
    put_training(aws.root / "dogs")
    url = pack_model(aws.root / "dogs")
    words = [str(Path(__file__).with_name("sdk_endpoint.py")), url, ROLE, IMAGE, BUCKET]
    try:
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    finally:
        end_endpoints(aws.root)
    assert '"class_name": "French_bulldog"' in done.stdout, done.stderr  # the SDK also queries it
    cfg = compose("deploy", ["from_training=dogs", "name=dogs", "backend=sagemaker"])
    ours = endpoint_requests(cfg, TrainedModel("dogs", url), Target(ROLE, IMAGE, f"s3://{BUCKET}", "us-east-1"))
    theirs = {operation: aws.sent(operation)[0] for operation in ours}
    check("Endpoint", differences(ours, theirs), REASONS)
