"""Golden file of the requests of the README's commands, so that reviews show every change of a request.

python tests/launch/spec/requests/test_golden.py        rewrites the file
"""

import importlib.metadata
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from botocore.validate import ParamValidator

from dogbreed.cli.config import resolve_defaults
from dogbreed.cli.overrides import parse
from launch.backends.local import LOCAL_TARGET
from launch.spec.limits import check_request
from launch.spec.plan import job_overrides
from launch.spec.requests.training import Target, training_request
from launch.spec.requests.tuning import tuning_request
from launch.spec.service_model import service_model
from launch.spec.settings import compose
from tests.documents import commands
from tests.launch.plans import plan_of

VERSION = importlib.metadata.version("dogbreed")
HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden.json"
AWS = Target(
    role_arn="arn:aws:iam::123456789012:role/jobs",
    image="763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313",
    output_path="s3://sagemaker-us-east-1-123456789012/dogbreed",
    region="us-east-1",
    code_uri="s3://sagemaker-us-east-1-123456789012/dogbreed/code/0123456789abcdef/sourcedir.tar.gz",
)
LINES = sorted(
    line
    for line in commands()
    if re.match(r"python -m launch\.(tune|train) ", line) and "resume=" not in line and "dry_run" not in line
)


def request(line):
    """Returns the operation and the request of a README command; `from_tuning` stands for two fixed overrides."""
    module, *words = shlex.split(line)[2:]
    words = [word.replace("ROLE_ARN", AWS.role_arn) for word in words]
    words += [] if any(word.startswith("name=") for word in words) else ["name=golden"]
    site = AWS if "backend=sagemaker" in words else LOCAL_TARGET
    if module == "launch.tune":
        operation, found = "CreateHyperParameterTuningJob", tuning_request(plan_of(words), site)
    else:
        words = ["model=resnet34", "lr=0.00389", *words]
        cfg = resolve_defaults(compose("training", words))
        operation, found = "CreateTrainingJob", training_request(cfg, job_overrides(parse(words)), site)
    text = json.dumps(found).replace(str(Path.cwd()), "CWD").replace(f'"{VERSION}"', '"VERSION"')
    return operation, json.loads(text)


@pytest.mark.parametrize("line", LINES)
def test_request_matches_golden_file_and_is_valid(line):
    operation, found = request(line)
    assert found == json.loads(GOLDEN.read_text())[line]
    assert check_request(operation, found) == []
    report = ParamValidator().validate(found, service_model().operation_model(operation).input_shape)
    assert not report.has_errors(), report.generate_report()


def test_readme_has_tune_and_train_commands():
    assert any("backend=sagemaker" in line for line in LINES) and any("launch.train" in line for line in LINES)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({line: request(line)[1] for line in LINES}, indent=1) + "\n")
    print(f"{len(LINES)} requests in {GOLDEN}", file=sys.stderr)
