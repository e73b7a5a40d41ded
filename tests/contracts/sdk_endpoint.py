"""The endpoint of test_sdk_parity_deploy.py, written with the SageMaker SDK; the test runs it as a program."""

import sys

from sagemaker.core.helper.session_helper import Session
from sagemaker.core.resources import Endpoint
from sagemaker.serve.mode.function_pointers import Mode
from sagemaker.serve.model_builder import ModelBuilder

archive, role, image, bucket = sys.argv[1:]
builder = ModelBuilder(
    s3_model_data_url=archive,
    image_uri=image,
    role_arn=role,
    sagemaker_session=Session(default_bucket=bucket),
    instance_type="ml.m5.large",
    mode=Mode.SAGEMAKER_ENDPOINT,
    env_vars={"DOGBREED_ANSWER": "label", "DOGBREED_TOP_K": "5", "DOGBREED_TRAINING": "dogs"},
)
builder.build(model_name="dogs", region="us-east-1")
builder.deploy(endpoint_name="dogs", initial_instance_count=1, wait=False)
endpoint = Endpoint.get("dogs")
endpoint.wait_for_status("InService", poll=1, timeout=60)
print(endpoint.invoke(body=b"069.French_bulldog", content_type="application/x-image").body.read().decode())
