"""The requests of the README's deployments, held as a file: a change of what is sent is seen in review.

python tests/launch/spec/requests/test_golden_deploy.py        writes them anew
"""

import json
import shlex
import sys
from pathlib import Path

import pytest
from botocore.validate import ParamValidator

from launch.backends.local import LOCAL_ENDPOINT_TARGET
from launch.spec.limits import SERVICES, check_request
from launch.spec.requests.endpoint import EndpointTarget, TrainedModel, content_name, deploy_requests, is_made_for
from launch.spec.service_model import service_model
from launch.spec.settings import compose
from tests.documents import commands

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden_deploy.json"
ROLE = "arn:aws:iam::123456789012:role/jobs"
AWS = EndpointTarget(
    ROLE,
    "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312",
    "s3://sagemaker-us-east-1-123456789012/dogbreed",
    "us-east-1",
)
LINES = sorted(
    {line.removesuffix(" dry_run=true") for line in commands() if line.startswith("python -m launch.deploy ")}
)


def requests(line, *more, update=False):
    words = [word.replace("ROLE_ARN", ROLE) for word in [*shlex.split(line)[3:], *more]]
    cfg = compose("deploy", words)
    name = str(cfg.from_training)
    cfg.name = cfg.name or name
    bucket = "s3://local" if cfg.backend.name == "local" else AWS.output_path
    model = TrainedModel(name, f"{bucket}/{name}/output/model.tar.gz", "2026-11-21T05:00:00+00:00")
    return deploy_requests(cfg, model, LOCAL_ENDPOINT_TARGET if cfg.backend.name == "local" else AWS, update)


@pytest.mark.parametrize("line", LINES)
def test_the_requests_are_those_on_file_and_aws_takes_them(line):
    found = requests(line)
    assert found == json.loads(GOLDEN.read_text())[line]
    for operation, request in found.items():
        assert check_request(operation, request) == []
        shape = service_model(SERVICES.get(operation, "sagemaker")).operation_model(operation).input_shape
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), report.generate_report()


def test_names_are_of_the_content_and_fit():
    line = "python -m launch.deploy from_training=dogs"
    names = [requests(line, *more)["CreateModel"]["ModelName"] for more in ((), (), ("top_k=3",))]
    assert names[0] == names[1] != names[2]
    long = "a" * 54 + "-" + "b" * 8
    made = requests(f"{line} name={long}")
    assert all(check_request(operation, request) == [] for operation, request in made.items())
    assert is_made_for(made["CreateModel"]["ModelName"], long) and is_made_for(content_name("dogs", 1), "dogs")
    assert not is_made_for("dogs", "dogs") and not is_made_for(content_name("dogs-2", 1), "dogs")


def test_an_update_keeps_the_size_that_scaling_found():
    line = "python -m launch.deploy from_training=dogs backend=sagemaker"
    assert requests(line, "autoscaling.max_count=4", update=True)["UpdateEndpoint"]["RetainAllVariantProperties"]
    assert "RetainAllVariantProperties" not in requests(line, update=True)["UpdateEndpoint"]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({line: requests(line) for line in LINES}, indent=1) + "\n")
    print(f"requests of {len(LINES)} commands in {GOLDEN}", file=sys.stderr)
