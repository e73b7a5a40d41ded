"""LocalSageMaker behind a boto3 client: names, lists, pages, errors and corrupt folders."""

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, ParamValidationError
from omegaconf import OmegaConf

from dogbreed.errors import UserError
from launch.backends import open_backend
from launch.local.api.boto_client import local_client
from launch.local.api.operations import LocalSageMaker
from launch.local.hosting.runtime import local_runtime
from launch.local.job_store import REQUEST, STATE, write_json
from launch.runs.results import read_sweep
from tests.launch.local_jobs import (
    NOON,
    categorical,
    job_fields,
    make_client,
    put_training,
    put_tuning,
    run_tuning,
    training_request,
    tuning_request,
    wait_training,
    wait_tuning,
    warm_start,
)


@pytest.fixture
def client(tmp_path):
    return make_client(tmp_path)


def error_code(error):
    return error.value.response["Error"]["Code"]


def error_message(error):
    return error.value.response["Error"]["Message"]


def training_names(client, **request):
    return [job["TrainingJobName"] for job in client.list_training_jobs(**request)["TrainingJobSummaries"]]


def tuning_names(client, **request):
    jobs = client.list_hyper_parameter_tuning_jobs(**request)["HyperParameterTuningJobSummaries"]
    return [job["HyperParameterTuningJobName"] for job in jobs]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_PROFILE", "nope"), ("AWS_RETRY_MODE", "x"), ("AWS_MAX_ATTEMPTS", "x"), ("AWS_DEFAULTS_MODE", "x"),
        ("AWS_ENDPOINT_URL", "nonsense"), ("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", "nonsense"),
        ("AWS_CONFIG_FILE", __file__), ("AWS_SHARED_CREDENTIALS_FILE", __file__),
    ],
)  # fmt: skip
def test_local_client_ignores_aws_settings(name, value, monkeypatch, tmp_path):
    monkeypatch.setenv(name, value)
    assert training_names(local_client(tmp_path)) == []
    with pytest.raises(ClientError, match="dogs"):
        local_runtime(tmp_path).invoke_endpoint(EndpointName="dogs", Body=b"")


def test_create_rejects_name_in_use(client):
    client.create_training_job(**training_request("twice"))
    with pytest.raises(client.exceptions.ResourceInUse, match="twice exists already; choose another name"):
        client.create_training_job(**training_request("twice"))
    with pytest.raises(client.exceptions.ResourceInUse):
        client.create_hyper_parameter_tuning_job(**tuning_request("twice"))
    wait_training(client, "twice")


def test_create_race_has_one_winner(tmp_path):
    clients = [make_client(tmp_path) for _ in range(6)]

    def create(client):
        try:
            client.create_training_job(**training_request("race"))
        except ClientError as error:
            return error.response["Error"]["Code"]
        return "created"

    with ThreadPoolExecutor(6) as threads:
        assert sorted(threads.map(create, clients)) == ["ResourceInUse"] * 5 + ["created"]
    wait_training(clients[0], "race")


def test_unknown_name_is_not_found(client):
    for ask in (client.describe_training_job, client.stop_training_job):
        with pytest.raises(client.exceptions.ResourceNotFound, match="there is no training job 'none' under"):
            ask(TrainingJobName="none")
    for ask in (
        client.describe_hyper_parameter_tuning_job,
        client.stop_hyper_parameter_tuning_job,
        client.list_training_jobs_for_hyper_parameter_tuning_job,
    ):
        with pytest.raises(client.exceptions.ResourceNotFound, match="no hyperparameter tuning job 'none' under"):
            ask(HyperParameterTuningJobName="none")
    with pytest.raises(client.exceptions.ResourceNotFound):
        client.list_tags(ResourceArn="arn:aws:sagemaker:local:000000000000:training-job/none")


def test_describe_separates_kinds_of_jobs(client, tmp_path):
    put_tuning(tmp_path / "sweep")
    put_training(tmp_path / "single")
    with pytest.raises(client.exceptions.ResourceNotFound):
        client.describe_training_job(TrainingJobName="sweep")
    with pytest.raises(client.exceptions.ResourceNotFound):
        client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="single")


def test_unsupported_operation_is_rejected(client):
    with pytest.raises(
        ClientError, match="CreateProject is not supported on this machine; choose AddTags, Create"
    ) as error:
        client.create_project(ProjectName="m")
    assert error_code(error) == "ValidationException"


def test_create_checks_request_against_limits(client, tmp_path):
    with pytest.raises(ParamValidationError):
        client.create_training_job(TrainingJobName="x")
    with pytest.raises(ClientError) as error:
        client.create_hyper_parameter_tuning_job(**tuning_request("a_b", strategy="Optuna"))
    assert error_code(error) == "ValidationException"
    assert error_message(error).startswith(
        "2 validation errors detected: HyperParameterTuningJobName: 'a_b' does not match"
    )
    assert "Strategy: 'Optuna' is not one of its values" in error_message(error)
    assert list(tmp_path.iterdir()) == []


def refused(client, request):
    """Returns why a tuning job is refused."""
    with pytest.raises(ClientError) as error:
        client.create_hyper_parameter_tuning_job(**request)
    assert error_code(error) == "ValidationException"
    return error_message(error)


def test_create_rejects_unsupported_features(client, tmp_path):
    def with_definition(**changes):
        request = tuning_request("x")
        request["TrainingJobDefinition"].update(changes)
        return request

    def channel(uri):
        source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri}}
        return with_definition(InputDataConfig=[{"ChannelName": "training", "DataSource": source}])

    assert "s3://bucket/dogs is not copied to this machine; set data.url instead" in refused(
        client, channel("s3://bucket/dogs")
    )
    assert "s3://local/../x is not copied to this machine" in refused(client, channel("s3://local/../x"))
    assert f"s3://local/none is {tmp_path / 'none'}, which does not exist" in refused(
        client, channel("s3://local/none")
    )
    hosts = {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 1}
    assert "ResourceConfig.InstanceCount: this machine is one host" in refused(
        client, with_definition(ResourceConfig=hosts)
    )
    for regex, reason in [
        ("(", "is not a regular expression"),
        ("loss", "has no group; put the number in parentheses"),
    ]:
        algorithm = job_fields()["AlgorithmSpecification"]
        algorithm = algorithm | {"MetricDefinitions": [{"Name": "val/accuracy", "Regex": regex}]}
        assert reason in refused(client, with_definition(AlgorithmSpecification=algorithm))
    several = tuning_request("x")
    several["TrainingJobDefinitions"] = [several.pop("TrainingJobDefinition")]
    assert "TrainingJobDefinitions: not supported on this machine" in refused(client, several)
    assert "there is no tuning job none" in refused(
        client, tuning_request("x") | {"WarmStartConfig": warm_start("none")}
    )
    assert list(tmp_path.iterdir()) == []


def test_warm_start_rejects_running_parent(client):
    client.create_hyper_parameter_tuning_job(**tuning_request("busy", static={"epochs": "99", "epoch_s": "0.1"}))
    assert "busy is in status InProgress" in refused(
        client, tuning_request("x") | {"WarmStartConfig": warm_start("busy")}
    )
    client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="busy")
    wait_tuning(client, "busy")


def test_lists_filter_and_sort(client, tmp_path):
    for index, (name, status) in enumerate([("cat", "Completed"), ("Dog", "Failed"), ("doe", "Completed")]):
        put_training(tmp_path / name, status, NOON + index)
        put_tuning(tmp_path / f"t-{name}", status, NOON + index)
    assert training_names(client) == ["cat", "Dog", "doe"]
    assert training_names(client, SortOrder="Descending") == ["doe", "Dog", "cat"]
    assert training_names(client, SortBy="Name") == ["Dog", "cat", "doe"]
    assert training_names(client, SortBy="Status") == ["cat", "doe", "Dog"]
    assert training_names(client, NameContains="do") == ["Dog", "doe"]
    assert training_names(client, StatusEquals="Failed") == ["Dog"]
    middle = dt.datetime.fromtimestamp(NOON + 0.5, dt.timezone.utc)
    assert training_names(client, CreationTimeAfter=middle) == ["Dog", "doe"]
    assert training_names(client, CreationTimeBefore=middle) == ["cat"]
    assert training_names(client, LastModifiedTimeAfter=middle, StatusEquals="Completed") == ["doe"]
    assert training_names(client, CreationTimeAfter="2026-01-01T12:00:01Z") == ["doe"]
    assert training_names(client, CreationTimeBefore=int(NOON) + 1) == ["cat"]
    with pytest.raises(ClientError, match="WarmPoolStatusEquals: not supported on this machine"):
        training_names(client, WarmPoolStatusEquals="Available")
    assert tuning_names(client, NameContains="do", StatusEquals="Completed") == ["t-doe"]
    assert tuning_names(client, SortBy="CreationTime", SortOrder="Descending") == ["t-doe", "t-Dog", "t-cat"]


def test_list_compares_times_as_returned(client, tmp_path):
    put_training(tmp_path / "job", created=NOON + 0.0004)
    (shown,) = client.list_training_jobs()["TrainingJobSummaries"]
    assert training_names(client, CreationTimeAfter=shown["CreationTime"]) == []


def test_list_follows_replaced_job(client, tmp_path):
    for status in ("Completed", "Failed", "Stopped"):
        put_training(tmp_path / "job", status)
        assert training_names(client, StatusEquals=status) == ["job"] == training_names(client)
        shutil.rmtree(tmp_path / "job")
    assert training_names(client) == []


def test_lists_have_pages(client, tmp_path):
    for index in range(12):
        put_training(tmp_path / f"job{index:02d}", created=NOON + index)
    assert len(training_names(client)) == 10  # default of AWS
    first = client.list_training_jobs(MaxResults=5)
    second = client.list_training_jobs(MaxResults=7, NextToken=first["NextToken"])
    assert [job["TrainingJobName"] for job in second["TrainingJobSummaries"]] == [f"job{i:02d}" for i in range(5, 12)]
    assert "NextToken" not in second
    pages = client.get_paginator("list_training_jobs").paginate(PaginationConfig={"PageSize": 5})
    assert sum(len(page["TrainingJobSummaries"]) for page in pages) == 12
    with pytest.raises(ClientError, match="NextToken: 'x' was not returned"):
        client.list_training_jobs(NextToken="x")


def test_trials_sort_by_objective(client, tmp_path):
    put_tuning(tmp_path / "sweep", objectives=[0.5, None, 0.9, 0.7])

    def listed(**request):
        answer = client.list_training_jobs_for_hyper_parameter_tuning_job(
            HyperParameterTuningJobName="sweep", **request
        )
        return [job["TunedHyperParameters"]["lr"] for job in answer["TrainingJobSummaries"]]

    assert listed() == ["1", "2", "3", "4"]
    assert listed(SortBy="FinalObjectiveMetricValue", SortOrder="Descending") == ["3", "4", "1"]
    assert listed(StatusEquals="Failed") == ["2"]
    assert listed(MaxResults=2) == ["1", "2"]
    assert len(training_names(client)) == 4  # AWS lists them among the training jobs, too


def test_read_sweep_without_job_limit_counts_trials(client, tmp_path):
    put_tuning(tmp_path / "sweep", objectives=[0.5, 0.9])
    request = json.loads((tmp_path / "sweep" / REQUEST).read_text())
    del request["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxNumberOfTrainingJobs"]
    write_json(tmp_path / "sweep" / REQUEST, request)
    assert read_sweep(client, "sweep").max_jobs == 2  # the existing trials


def test_list_survives_corrupt_folders(client, tmp_path):
    put_tuning(tmp_path / "whole", objectives=[0.5])
    for name in ("no-state", "half-state", "half-request", "other-state"):
        put_tuning(tmp_path / name, objectives=[0.5])
    (tmp_path / "no-state" / STATE).unlink()
    (tmp_path / "half-state" / STATE).write_text('{"status": "Comp')
    (tmp_path / "half-request/request.json").write_text("{")
    (tmp_path / "other-state" / STATE).write_text("[1]")
    put_training(tmp_path / "broken")
    (tmp_path / "broken" / STATE).write_bytes(b"\xff\xfe")
    (tmp_path / "broken" / "request.json").write_text("")
    (tmp_path / "a-folder-of-the-user").mkdir()
    (tmp_path / "a-file.txt").write_text("")
    assert tuning_names(client) == ["half-request", "half-state", "no-state", "other-state", "whole"]
    for name in tuning_names(client):
        job = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        assert job["ObjectiveStatusCounters"]["Succeeded"] == (0 if name == "half-request" else 1)
        assert ("FailureReason" in job) == (name != "whole")
    reason = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="half-state")["FailureReason"]
    assert "state.json cannot be read" in reason
    assert "broken" in training_names(client)
    job = client.describe_training_job(TrainingJobName="broken")
    assert job["TrainingJobStatus"] == "Failed"


DAMAGE = {
    "text for a time": (STATE, {"created": "yesterday"}),
    "not a number": (STATE, {"modified": float("nan")}),
    "far future": (STATE, {"ended": 1e15}),
    "process group of everything": (STATE, {"status": "InProgress", "pid": -1, "started": 1.0}),
    "status is a list": (STATE, {"status": ["Completed"]}),
    "metric without a time": (STATE, {"metrics": {"val/accuracy": [0.5]}}),
    "request without a definition": (REQUEST, {"TrainingJobDefinition": None}),
    "request with text for a number": (REQUEST, {"HyperParameterTuningJobConfig": {"Strategy": 3}}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_file_hides_no_other_job(client, tmp_path, damage):
    put_tuning(tmp_path / "whole", objectives=[0.5])
    put_tuning(tmp_path / "damaged", objectives=[0.5])
    name, change = DAMAGE[damage]
    write_json(tmp_path / "damaged" / name, json.loads((tmp_path / "damaged" / name).read_text()) | change)
    assert tuning_names(client) == ["damaged", "whole"]
    job = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="damaged")
    assert "cannot be read" in job["FailureReason"]
    assert read_sweep(client, "whole").best.objective == 0.5
    assert len(training_names(client)) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_list_skips_unreadable_folder(client, tmp_path):
    put_training(tmp_path / "mine")
    put_training(tmp_path / "theirs")
    (tmp_path / "theirs").chmod(0)
    assert training_names(client) == ["mine"]
    (tmp_path / "theirs").chmod(0o755)


def test_describe_survives_cycle_of_warm_starts(client, tmp_path):
    for name, parent in (("one", "two"), ("two", "one")):
        put_tuning(tmp_path / name, objectives=[0.5])
        request = json.loads((tmp_path / name / "request.json").read_text())
        (tmp_path / name / "request.json").write_text(json.dumps(request | {"WarmStartConfig": warm_start(parent)}))
    job = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="one")
    assert job["OverallBestTrainingJob"]["TuningJobName"] in {"one", "two"}


def test_describe_skips_truncated_metrics(client, tmp_path):
    put_training(tmp_path / "cut")
    (tmp_path / "cut/metrics.jsonl").write_text('{"name": "val/accuracy", "val')
    assert client.describe_training_job(TrainingJobName="cut")["TrainingJobStatus"] == "Completed"


def test_create_reports_unwritable_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    client = make_client(tmp_path / "file" / "outputs")
    with pytest.raises(UserError, match=r"the folder .*file/outputs/x cannot be written: Not a directory; choose"):
        client.create_training_job(**training_request("x"))
    assert client.list_training_jobs()["TrainingJobSummaries"] == []

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        make_client(tmp_path).create_hyper_parameter_tuning_job(**tuning_request("x"))


def test_create_on_full_disk_leaves_no_job(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    client = make_client(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", refuse)
        with pytest.raises(UserError, match="cannot be written: No space left on device"):
            client.create_training_job(**training_request("x"))
    assert list(tmp_path.iterdir()) == []


def test_add_tags_replaces_same_key(client, tmp_path):
    put_training(tmp_path / "tagged")
    arn = client.describe_training_job(TrainingJobName="tagged")["TrainingJobArn"]
    assert client.list_tags(ResourceArn=arn)["Tags"] == []
    client.add_tags(ResourceArn=arn, Tags=[{"Key": "team", "Value": "dogs"}])
    client.add_tags(ResourceArn=arn, Tags=[{"Key": "team", "Value": "cats"}, {"Key": "cost", "Value": "1"}])
    expected = [{"Key": "team", "Value": "cats"}, {"Key": "cost", "Value": "1"}]
    assert client.list_tags(ResourceArn=arn)["Tags"] == expected


def test_concurrent_add_tags_keeps_all(tmp_path):
    put_training(tmp_path / "tagged")
    service = LocalSageMaker(tmp_path)
    arn = {"ResourceArn": service.answer("DescribeTrainingJob", {"TrainingJobName": "tagged"})["TrainingJobArn"]}

    def add(number):
        service.answer("AddTags", arn | {"Tags": [{"Key": str(number), "Value": ""}]})

    with ThreadPoolExecutor(8) as pool:  # as the server has them
        list(pool.map(add, range(40)))
    assert {tag["Key"] for tag in service.answer("ListTags", arn)["Tags"]} == {str(number) for number in range(40)}


def test_state_is_json_for_other_clients(client, tmp_path):
    run_tuning(client, tuning_request("shared", ranges=categorical("lr", "0.1", "0.2"), strategy="Grid", jobs=2))
    other = make_client(tmp_path)
    assert tuning_names(other) == ["shared"]
    state = json.loads((tmp_path / "shared" / STATE).read_text())
    assert state["status"] == "Completed"
    write_json(tmp_path / "shared" / STATE, state | {"status": "Stopped"})
    assert tuning_names(other, StatusEquals="Stopped") == ["shared"]
    assert not list((tmp_path / "shared").rglob("*.part"))


def test_times_have_a_zone(client, tmp_path):
    put_training(tmp_path / "timed")
    created = client.describe_training_job(TrainingJobName="timed")["CreationTime"]
    assert created.tzinfo is not None
    assert created.timestamp() == NOON


def test_open_backend_returns_the_selected_one(tmp_path, monkeypatch):
    def client(name):
        settings = {"name": name, "root": str(tmp_path), "region": None}
        return open_backend(OmegaConf.create({"backend": settings})).client()

    assert client("local").list_training_jobs()["TrainingJobSummaries"] == []
    with pytest.raises(UserError, match="backend=sagemakr is unknown; did you mean sagemaker"):
        client("sagemakr")
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    with pytest.raises(UserError, match=r"no AWS region is configured: type backend\.region=us-east-1"):
        client("sagemaker")


def test_local_client_imports_no_search():
    code = (
        "import sys;"
        "from omegaconf import OmegaConf; from launch.backends import open_backend;"
        "open_backend(OmegaConf.create({'backend': {'name': 'local', 'root': 'x'}})).client();"
        "print([m for m in ('torch', 'optuna', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
