"""Golden file of the requests of all documented deployments, so that reviews show every change of what is sent.

python tests/launch/spec/requests/test_golden_deploy.py        rewrites the file
"""

import importlib.metadata
import json
import shlex
import sys
from pathlib import Path

import pytest
from botocore.validate import ParamValidator

from launch.backends.local import LOCAL_TARGET
from launch.spec.limits import SERVICES, check_request
from launch.spec.requests.endpoint import TrainedModel, content_name, endpoint_requests
from launch.spec.requests.training import Target
from launch.spec.service_model import service_model
from launch.spec.settings import compose
from tests.documents import commands

VERSION = importlib.metadata.version("dogbreed")
HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden_deploy.json"
ROLE = "arn:aws:iam::123456789012:role/jobs"
AWS = Target(
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
    target = LOCAL_TARGET if cfg.backend.name == "local" else AWS
    return json.loads(json.dumps(endpoint_requests(cfg, model, target, update)).replace(f'"{VERSION}"', '"VERSION"'))


@pytest.mark.parametrize("line", LINES)
def test_endpoint_requests_match_golden_file(line):
    found = requests(line)
    assert found == json.loads(GOLDEN.read_text())[line]
    for operation, request in found.items():
        assert check_request(operation, request) == []
        shape = service_model(SERVICES.get(operation, "sagemaker")).operation_model(operation).input_shape
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), report.generate_report()


def test_content_name_is_stable_and_fits():
    line = "python -m launch.deploy from_training=dogs"
    names = [requests(line, *more)["CreateModel"]["ModelName"] for more in ((), (), ("top_k=3",))]
    assert names[0] == names[1] != names[2]
    long = "a" * 54 + "-" + "b" * 8
    made = requests(f"{line} name={long}")
    assert all(check_request(operation, request) == [] for operation, request in made.items())
    assert content_name(long, 1) != content_name("a" * 54 + "-" + "c" * 8, 1)


def test_endpoint_requests_update_keeps_scaled_size():
    line = "python -m launch.deploy from_training=dogs backend=sagemaker"
    assert requests(line, "autoscaling.max_count=4", update=True)["UpdateEndpoint"]["RetainAllVariantProperties"]
    assert "RetainAllVariantProperties" not in requests(line, update=True)["UpdateEndpoint"]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({line: requests(line) for line in LINES}, indent=1) + "\n")
    print(f"requests of {len(LINES)} commands in {GOLDEN}", file=sys.stderr)
