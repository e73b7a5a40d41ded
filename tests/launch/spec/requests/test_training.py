"""Every setting of the config is in the request. The SDK's tuner has dropped each of these."""

import functools

import pytest
from omegaconf import OmegaConf

from dogbreed.cli.config import resolve_defaults
from dogbreed.errors import UserError
from launch.spec.limits import check_request
from launch.spec.requests.training import Target, training_request
from launch.spec.requests.tuning import tuning_request
from launch.spec.settings import compose
from tests.launch.cloud import BUCKET, EXPLICIT, IMAGE, ROLE
from tests.launch.plans import plan_of

SITE = Target(
    role_arn=ROLE,
    image=IMAGE,
    output_path=f"s3://{BUCKET}/dogbreed",
    region="us-east-1",
    code_uri=f"s3://{BUCKET}/dogbreed/code/0123/sourcedir.tar.gz",
)
DATA = ["data=s3", "data.url=s3://b/dogs"]
DEFINITION = "TrainingJobDefinition"
CONFIG = "HyperParameterTuningJobConfig"

SETTINGS = {
    "environment": (["+backend.environment.A=1", "+backend.environment.B=true"], f"{DEFINITION}.Environment",
                    {"A": "1", "B": "true"}),
    "spot": (["instance.spot=true"], f"{DEFINITION}.EnableManagedSpotTraining", True),
    "spot: time to wait": (["instance.spot=true", "instance.max_wait_hours=3"],
                           f"{DEFINITION}.StoppingCondition.MaxWaitTimeInSeconds", 10800),
    "checkpoints": (["instance.spot=true"], f"{DEFINITION}.CheckpointConfig",
                    {"S3Uri": f"s3://{BUCKET}/dogbreed/n/checkpoints", "LocalPath": "/opt/ml/checkpoints"}),
    "checkpoints of retried jobs": (["instance.retries=2"], f"{DEFINITION}.CheckpointConfig.LocalPath",
                                    "/opt/ml/checkpoints"),
    "retry strategy": (["instance.retries=2"], f"{DEFINITION}.RetryStrategy", {"MaximumRetryAttempts": 2}),
    "tags": (["+backend.tags.team=dogs"], "Tags[0]", {"Key": "team", "Value": "dogs"}),
    "channel, FastFile": ([*DATA, "backend.input_mode=FastFile"], f"{DEFINITION}.InputDataConfig[0]", {
        "ChannelName": "data", "InputMode": "FastFile", "DataSource": {"S3DataSource": {
            "S3DataType": "S3Prefix", "S3Uri": "s3://b/dogs/", "S3DataDistributionType": "FullyReplicated"}}}),
    "channel, File": ([*DATA, "backend.input_mode=File"], f"{DEFINITION}.InputDataConfig[0].InputMode", "File"),
    "channel of weights": (["model.weights=s3://b/w.pth"],
                           f"{DEFINITION}.InputDataConfig[0].DataSource.S3DataSource.S3Uri", "s3://b/w.pth"),
    "vpc": (["backend.subnets=[subnet-1]", "backend.security_groups=[sg-1]"], f"{DEFINITION}.VpcConfig",
            {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}),
    "kms of results": (["backend.kms_key=k1"], f"{DEFINITION}.OutputDataConfig.KmsKeyId", "k1"),
    "kms of disks": (["backend.volume_kms_key=k2"], f"{DEFINITION}.ResourceConfig.VolumeKmsKeyId", "k2"),
    "network isolation": (["backend.network_isolation=true"], f"{DEFINITION}.EnableNetworkIsolation", True),
    "code without a network": (["backend.network_isolation=true"],
                               f"{DEFINITION}.StaticHyperParameters.sagemaker_submit_directory",
                               "/opt/ml/input/data/code/sourcedir.tar.gz"),
    "encrypted traffic": (["backend.encrypt_traffic=true"], f"{DEFINITION}.EnableInterContainerTrafficEncryption",
                          True),
    "volume": (["instance.volume_gb=77"], f"{DEFINITION}.ResourceConfig.VolumeSizeInGB", 77),
    "instances": (["instance.count=2"], f"{DEFINITION}.ResourceConfig.InstanceCount", 2),
    "several instance types": (["instance.alternatives=[ml.g4dn.xlarge]", "backend.volume_kms_key=k2"],
                               f"{DEFINITION}.HyperParameterTuningResourceConfig", {
        "AllocationStrategy": "Prioritized", "VolumeKmsKeyId": "k2", "InstanceConfigs": [
            {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
            {"InstanceType": "ml.g4dn.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30}]}),
    "max runtime of a job": (["instance.max_hours=0.5"], f"{DEFINITION}.StoppingCondition.MaxRuntimeInSeconds", 1800),
    "max runtime of the sweep": (["tuner.max_hours=1.5"], f"{CONFIG}.ResourceLimits.MaxRuntimeInSeconds", 5400),
    "seed 0": (["tuner.seed=0"], f"{CONFIG}.RandomSeed", 0),
    "early stopping": (["tuner.early_stopping=true"], f"{CONFIG}.TrainingJobEarlyStoppingType", "Auto"),
    "hyperband": (["tuner=hyperband", "epochs=9"], f"{CONFIG}.StrategyConfig.HyperbandStrategyConfig",
                  {"MinResource": 1, "MaxResource": 10}),
    "target": (["tuner.target=0.0"], f"{CONFIG}.TuningJobCompletionCriteria.TargetObjectiveMetricValue", 0.0),
    "patience": (["tuner.patience=3"], f"{CONFIG}.TuningJobCompletionCriteria.BestObjectiveNotImproving",
                 {"MaxNumberOfTrainingJobsNotImproving": 3}),
    "convergence": (["tuner.until_converged=true"],
                    f"{CONFIG}.TuningJobCompletionCriteria.ConvergenceDetected.CompleteOnConvergence", "Enabled"),
    "autotune": (["tuner.autotune=true"], "Autotune", {"Mode": "Enabled"}),
    "warm start, transfer": (["tuner.warm_start=[a,b]"], "WarmStartConfig", {
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "a"}, {"HyperParameterTuningJobName": "b"}],
        "WarmStartType": "TransferLearning"}),
    "warm start, identical": (["tuner.warm_start=[a]", "tuner.warm_start_type=IdenticalDataAndAlgorithm"],
                              "WarmStartConfig.WarmStartType", "IdenticalDataAndAlgorithm"),
}  # fmt: skip
ONLY_SWEEPS = ("several instance types", "max runtime of the sweep", "seed 0")


def at(request, path):
    return OmegaConf.to_container(OmegaConf.create({"r": OmegaConf.select(OmegaConf.create(request), path)}))["r"]


APART = ("channel, File", "channel of weights", "several instance types", "hyperband", "warm start, identical")
"""Settings that conflict with one of the others."""


@functools.cache
def sweep_request(*typed):
    request = tuning_request(plan_of(["lr=range", "name=n", *EXPLICIT, *typed]), SITE)
    assert check_request("CreateHyperParameterTuningJob", request) == []
    return request


@pytest.mark.parametrize("setting", SETTINGS)
def test_sweep_setting_is_in_the_request(setting):
    typed, path, value = SETTINGS[setting]
    together = dict.fromkeys(word for name, found in SETTINGS.items() if name not in APART for word in found[0])
    assert at(sweep_request(*(typed if setting in APART else together)), path) == value


def test_default_request_has_no_optional_fields():
    request = sweep_request("tuner=random")
    extra = {"WarmStartConfig", "Autotune"} & set(request)
    extra |= {"TuningJobCompletionCriteria", "StrategyConfig"} & set(request[CONFIG])
    shared = {"Environment", "VpcConfig", "CheckpointConfig", "RetryStrategy", "InputDataConfig"}
    shared |= {"EnableNetworkIsolation", "EnableManagedSpotTraining", "EnableInterContainerTrafficEncryption"}
    assert extra | (shared & set(request[DEFINITION])) == set()


def test_job_settings_are_in_the_training_request():
    chosen = {
        name: found
        for name, found in SETTINGS.items()
        if name not in ONLY_SWEEPS and (found[1].startswith("Tags") or found[1].startswith(DEFINITION))
    }
    apart = ("checkpoints of retried jobs", "channel, File", "spot: time to wait", "channel of weights")
    typed = [word for name, found in chosen.items() if name not in apart for word in found[0]]
    cfg = resolve_defaults(compose("training", ["name=n", *EXPLICIT, *dict.fromkeys(typed)]))
    request = training_request(cfg, ["lr=0.1"], SITE)
    assert check_request("CreateTrainingJob", request) == []
    for name, (_, path, value) in chosen.items():
        if name not in apart:
            own = path.removeprefix(f"{DEFINITION}.").replace("StaticHyperParameters", "HyperParameters")
            assert at(request, own) == value, name
    assert request["OutputDataConfig"]["S3OutputPath"] == f"s3://{BUCKET}/dogbreed"
    assert request["HyperParameters"]["overrides"] == '["lr=0.1"]'


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("instance.spot=yes-please", "instance.spot=yes-please: must be true or false"),
        ("instance.retries=31", "instance.retries=31: must be a whole number from 0 to 30"),
        ("instance.max_hours=abc", "instance.max_hours=abc: must be a number"),
        ("tuner.patience=2", "tuner.patience=2: must be a whole number of at least 3"),
        ("tuner.warm_start=earlier", "tuner.warm_start=earlier: must be a list, type 'tuner.warm_start=[a,b]'"),
        ("tuner.warm_start_type=Identical", "allowed: IdenticalDataAndAlgorithm, TransferLearning"),
        ("backend.input_mode=Pipe", "backend.input_mode=Pipe: not allowed; allowed: FastFile, File, null"),
        ("backend.tags=3", "backend.tags=3: give each entry by its name, type +backend.tags.NAME=VALUE"),
    ],
)
def test_invalid_setting_is_one_line(typed, message):
    with pytest.raises(UserError) as error:
        plan_of(["lr=range", "backend=sagemaker", typed])
    assert message in str(error.value)


def test_training_rejects_several_instance_types():
    cfg = resolve_defaults(compose("training", ["instance.alternatives=[ml.g4dn.xlarge]"]))
    with pytest.raises(UserError, match="is for sweeps"):
        training_request(cfg, [], SITE)
