"""The CreateTrainingJob request, and what it shares with the training jobs of a tuning job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dogbreed.callbacks.metric_line import METRICS, metric_regex
from dogbreed.errors import UserError
from launch.spec.contract import CODE, DATA, OVERRIDES, PROGRAM, RETURN_METRIC, WEIGHTS, Json
from launch.spec.ownership import owner_tags
from launch.spec.plan import max_hours

TEST_METRICS = ("test/accuracy", "test/loss")
"""Metrics that SageMaker reads from the log of a job, in addition to those of each epoch."""


LOCAL_MAX_HOURS = 28 * 24
"""Time limit of a job on this machine, unless one is given: the largest that AWS accepts."""


@dataclass(frozen=True)
class Target:
    """Where jobs and endpoints run: values that a request needs in addition to the config."""

    role_arn: str
    image: str
    """URI of the container image."""
    output_path: str
    """`s3://BUCKET/PREFIX`; each job writes JOBNAME/output/model.tar.gz below it, an endpoint captured requests."""
    region: str = "local"
    code_uri: str | None = None
    """URI of the archive of the code that jobs run; None: the code on this machine."""
    is_local: bool = False
    """Whether it is this machine, where the search accepts points to try first and endpoints do not scale."""
    image_note: str = ""
    """Versions in the image, and until when it is patched."""


def training_request(cfg: DictConfig, fixed: Sequence[str], target: Target) -> Json:
    """Returns the arguments of `create_training_job`; `fixed` are the overrides that the job composes its config from.

    Raises:
        UserError: A setting that only tuning jobs have, or settings that contradict each other.
    """
    name = str(cfg.name)
    if cfg.instance.alternatives:
        raise UserError("instance.alternatives is for sweeps: a single training has one instance.type")
    hyperparameters = {OVERRIDES: json.dumps(list(fixed), ensure_ascii=False)}
    request: Json = {
        "TrainingJobName": name,
        "HyperParameters": hyperparameters | code_hyperparameters(target, bool(cfg.backend.get("network_isolation"))),
        **job_definition(cfg, target, name, target.output_path),
        "ResourceConfig": resource_config(cfg),
    }
    if cfg.instance.keep_alive_minutes:
        if cfg.instance.spot:
            raise UserError("instance.keep_alive_minutes: AWS keeps no spot instances warm; give instance.spot=false")
        request["ResourceConfig"]["KeepAlivePeriodInSeconds"] = round(cfg.instance.keep_alive_minutes * 60)
    request["Tags"] = tags(cfg, name)
    return request


def job_definition(cfg: DictConfig, target: Target, name: str, output_path: str) -> Json:
    """Returns the fields that a TrainingJobDefinition and a CreateTrainingJob request share.

    SageMaker writes `JOBNAME/output` below `output_path`.
    """
    backend = OmegaConf.to_container(cfg.backend, resolve=True)
    assert isinstance(backend, dict)
    objective = str(cfg.objective.metric)
    others = () if objective == RETURN_METRIC else (*METRICS, *TEST_METRICS)
    metrics = dict.fromkeys((objective, *others))
    definition: Json = {
        "AlgorithmSpecification": {
            "TrainingImage": target.image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": metric, "Regex": metric_regex(metric)} for metric in metrics],
        },
        "RoleArn": target.role_arn,
        "OutputDataConfig": {"S3OutputPath": output_path} | _present(KmsKeyId=backend.get("kms_key")),
        **_schedule(cfg.instance, target, f"{target.output_path}/{name}/checkpoints"),
    }
    if channels := _channels(cfg, target):
        definition["InputDataConfig"] = channels
    if backend.get("subnets") or backend.get("security_groups"):
        definition["VpcConfig"] = {"Subnets": backend["subnets"], "SecurityGroupIds": backend["security_groups"]}
    if backend.get("network_isolation"):
        definition["EnableNetworkIsolation"] = True
    if backend.get("encrypt_traffic"):
        definition["EnableInterContainerTrafficEncryption"] = True
    if backend["environment"]:
        definition["Environment"] = {key: _text(value) for key, value in backend["environment"].items()}
    return definition


def resource_config(cfg: DictConfig) -> Json:
    """Returns the `ResourceConfig` of one instance type."""
    return _instances(cfg, str(cfg.instance.type)) | _present(VolumeKmsKeyId=cfg.backend.get("volume_kms_key"))


def tuning_resource_config(cfg: DictConfig) -> Json:
    """Returns the `HyperParameterTuningResourceConfig` of several instance types, in order of preference."""
    types = [str(cfg.instance.type), *map(str, cfg.instance.alternatives)]
    return {
        "AllocationStrategy": "Prioritized",
        "InstanceConfigs": [_instances(cfg, instance_type) for instance_type in types],
    } | _present(VolumeKmsKeyId=cfg.backend.get("volume_kms_key"))


def _instances(cfg: DictConfig, instance_type: str) -> Json:
    return {
        "InstanceType": instance_type,
        "InstanceCount": int(cfg.instance.count),
        "VolumeSizeInGB": int(cfg.instance.volume_gb),
    }


def tags(cfg: DictConfig, name: str) -> list[Json]:
    """Returns the API's tags of what belongs to `name`: those of the config, and the launcher's own."""
    return owner_tags(name, [{"Key": str(key), "Value": _text(value)} for key, value in cfg.backend.tags.items()])


def code_hyperparameters(target: Target, isolated: bool) -> dict[str, str]:
    """Returns the hyperparameters that select the program for SageMaker's training toolkit; none on this machine.

    An `isolated` job has no network, so its code comes through a channel.
    """
    if target.code_uri is None:
        return {}
    archive = f"/opt/ml/input/data/{CODE}/{target.code_uri.rpartition('/')[2]}" if isolated else target.code_uri
    return {
        "sagemaker_program": PROGRAM,
        "sagemaker_submit_directory": archive,
        "sagemaker_region": target.region,
        "sagemaker_container_log_level": "20",
    }


def _schedule(instance: DictConfig, target: Target, checkpoints: str) -> Json:
    """Returns the time limits of a job, whether it uses spot instances, and how it is retried."""
    hours = LOCAL_MAX_HOURS if target.is_local and instance.max_hours is None else max_hours(instance)
    schedule: Json = {"StoppingCondition": {"MaxRuntimeInSeconds": round(hours * 3600)}}
    if instance.spot:
        wait = 2 * hours if instance.max_wait_hours is None else instance.max_wait_hours
        schedule["EnableManagedSpotTraining"] = True
        schedule["StoppingCondition"]["MaxWaitTimeInSeconds"] = round(wait * 3600)
    if instance.retries:
        schedule["RetryStrategy"] = {"MaximumRetryAttempts": int(instance.retries)}
    if instance.spot or instance.retries:
        schedule["CheckpointConfig"] = {"S3Uri": checkpoints, "LocalPath": "/opt/ml/checkpoints"}
    return schedule


def _channels(cfg: DictConfig, target: Target) -> list[Json]:
    if target.code_uri is None:
        return []
    channels, mode = [], cfg.backend.input_mode
    if mode is not None and str(cfg.data.url).startswith("s3://"):
        # the slash makes the prefix a folder; without it dogs/ would include dogs2/
        channels.append(_channel(DATA, f"{str(cfg.data.url).rstrip('/')}/", mode))
    if str(cfg.model.weights).startswith("s3://"):
        channels.append(_channel(WEIGHTS, str(cfg.model.weights), "File"))
    if cfg.backend.network_isolation:
        channels.append(_channel(CODE, target.code_uri, "File"))
    return channels


def _channel(name: str, uri: str, mode: str) -> Json:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "InputMode": mode, "DataSource": {"S3DataSource": source}}


def _present(**fields: Any) -> Json:
    """Returns the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def _text(value: Any) -> str:
    """Returns the value of a variable or tag as text; booleans as `true` and `false`."""
    return str(value).lower() if isinstance(value, bool) else str(value)
