"""Missing prerequisites of AWS are one-line errors, and nothing is uploaded."""

import json
import subprocess
import sys
from types import SimpleNamespace

import boto3
import pytest

from dogbreed.errors import UserError
from launch import train, tune
from launch.backends.aws import account, session
from tests.launch.cloud import BUCKET, IMAGE, ROLE


def typed(**changed):
    words = {"role": ROLE, "image": f"'{IMAGE}'", "bucket": BUCKET} | changed
    return ["lr=0.1,0.2", "backend=sagemaker", *(f"backend.{k}={v}" for k, v in words.items())]


def test_missing_region_is_rejected(aws, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(UserError, match=r"no AWS region is configured: type backend\.region=us-east-1"):
        tune.main(typed())
    assert tune.main([*typed(region="us-east-1"), "dry_run=true"]) == 0
    assert aws.keys() == []


def test_missing_credentials_are_rejected(aws, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match=r"no AWS credentials were found.*log in again"):
        tune.main(typed())


def test_missing_sdk_is_rejected_if_settings_are_missing(aws, monkeypatch):
    for name in ("sagemaker", "sagemaker.core", "sagemaker.core.helper", "sagemaker.core.helper.session_helper"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"backend\.role, backend\.image not given, .* pip install 'dogbreed\[sag"):
        tune.main(typed(role="null", image="null"))
    assert aws.keys() == []


def test_unknown_bucket_is_rejected(aws):
    with pytest.raises(UserError, match=r"there is no bucket nosuch: aws s3 mb s3://nosuch --region us-east-1"):
        tune.main(typed(bucket="nosuch"))


@pytest.fixture
def s3_requests(monkeypatch):
    """S3 operation to the owner that its request names; requests that name another owner are rejected, as by S3."""
    sent, make = {}, session.open_session

    def check(model, params, **_):
        sent[model.name] = params["headers"].get("x-amz-expected-bucket-owner")
        if sent[model.name] not in (None, "123456789012"):
            return SimpleNamespace(status_code=403), {"Error": {"Code": "403", "Message": "Forbidden"}}
        return None

    def recorded(region):
        opened = make(region)
        opened.events.register("before-call.s3", check)
        return opened

    monkeypatch.setattr(account, "open_session", recorded)
    return sent


def test_bucket_of_another_account_is_rejected(aws, s3_requests):
    with pytest.raises(UserError, match=r"account 111122223333 does not own it: .* add backend\.bucket_owner=ACCOUNT"):
        tune.main(typed(bucket_owner="'111122223333'"))
    assert aws.keys() == [] and aws.sent("CreateHyperParameterTuningJob") == []


def test_every_s3_request_names_the_owner_of_the_bucket(aws, s3_requests):
    assert tune.main(typed()) == 0
    assert s3_requests == dict.fromkeys(("HeadBucket", "HeadObject", "PutObject"), "123456789012")


def test_planted_archive_is_replaced(aws):
    assert tune.main([*typed(), "name=first"]) == 0
    (key,) = aws.keys()
    own = aws.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    aws.s3.put_object(Bucket=BUCKET, Key=key, Body=b"theirs")
    assert tune.main([*typed(), "name=second"]) == 0
    assert aws.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == own


def test_invalid_role_is_rejected(aws):
    with pytest.raises(UserError, match=r"TrainingJobDefinition\.RoleArn: 'role/jobs-of-dogbreed' does not match"):
        tune.main(typed(role="role/jobs-of-dogbreed"))
    assert aws.keys() == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["data=folder", "data.url=/my/dogs"], "aws s3 sync /my/dogs s3://BUCKET/PREFIX"),
        (
            ["model.weights=/my/w.pth"],
            "aws s3 cp /my/w.pth s3://BUCKET/PREFIX/, then model.weights=s3://BUCKET/PREFIX/w",
        ),
        (["backend.network_isolation=true", "backend.image=null"], "give backend.image=URI"),
        (["backend.network_isolation=true", "data=s3", "data.url=s3://b/dogs"], "add backend.input_mode=FastFile or"),
        (
            ["backend.network_isolation=true", "data=s3", "data.url=s3://b/dogs", "backend.input_mode=File"],
            "the hub cannot be reached",
        ),
    ],
)
def test_inputs_that_a_job_cannot_reach_are_rejected(aws, more, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        tune.main([*typed(), *more])
    assert aws.keys() == [] and aws.sent("CreateHyperParameterTuningJob") == []


def test_local_backend_rejects_weights_in_s3():
    with pytest.raises(UserError, match="on this machine give the path of a local file"):
        train.main(["model.weights=s3://b/w.pth"])


def test_dry_run_with_all_settings_sends_no_request(credentials, tmp_path):
    words = [*typed(), "dry_run=true"]
    done = subprocess.run([sys.executable, "-m", "launch.tune", *words], capture_output=True, text=True, check=True)
    definition = json.loads(done.stdout)["TrainingJobDefinition"]
    assert definition["StaticHyperParameters"]["sagemaker_program"] == "run_job.py"
    assert definition["RoleArn"] == ROLE


@pytest.mark.slow
def test_sdk_resolves_image_bucket_and_role(aws, monkeypatch, capsys):
    pytest.importorskip("sagemaker.core", reason="the SageMaker SDK is not installed: pip install -e .[sagemaker]")
    import os

    # The SDK reads the role from a fixed STS URL, which is redirected to the local STS.
    import sagemaker.core.helper.session_helper as helper

    helper.sts_regional_endpoint = lambda region: os.environ["AWS_ENDPOINT_URL"]
    assert tune.main([*typed(image="null", bucket="null"), "dry_run=true"]) == 0
    assert [bucket["Name"] for bucket in aws.s3.list_buckets()["Buckets"]] == [BUCKET]  # a dry run creates none
    assert tune.main(typed(image="null", bucket="null")) == 0
    request = aws.sent("CreateHyperParameterTuningJob")[0]["TrainingJobDefinition"]
    image = request["AlgorithmSpecification"]["TrainingImage"]
    assert image.startswith("763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch") and "-cpu-" in image
    assert request["OutputDataConfig"]["S3OutputPath"].startswith("s3://sagemaker-us-east-1-123456789012/dogbreed/")
    with pytest.raises(UserError, match=r"no role for the jobs: .* type backend\.role=arn:aws:iam::"):
        tune.main(typed(role="null"))
    iam, policy = boto3.client("iam"), json.dumps({"Version": "2012-10-17", "Statement": []})
    role = iam.create_role(RoleName="jobs", Path="/team/", AssumeRolePolicyDocument=policy)["Role"]["Arn"]
    session = boto3.client("sts").assume_role(RoleArn=role, RoleSessionName="notebook")["Credentials"]
    for name, key in {"ACCESS_KEY_ID": "AccessKeyId", "SECRET_ACCESS_KEY": "SecretAccessKey",
                      "SESSION_TOKEN": "SessionToken"}.items():  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", session[key])
    capsys.readouterr()
    assert tune.main([*typed(role="null"), "dry_run=true"]) == 0
    assert json.loads(capsys.readouterr().out)["TrainingJobDefinition"]["RoleArn"] == role
