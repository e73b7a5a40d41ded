"""What a sweep's trials and a single training job have in common in a request: image, data, machines, network. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dogbreed.callbacks.metric_line import METRICS, metric_regex
from launch.spec.contract import CODE, DATA, PROGRAM, RETURN_METRIC, WEIGHTS, Json

METRICS_AT_END = ("test/accuracy", "test/loss")
"""Metrics that SageMaker is told to read from a job's log, beside those of each epoch."""


@dataclass(frozen=True)
class JobTarget:
    """Where jobs run: what a request must name beside the plan."""

    role_arn: str
    training_image: str
    output_path: str
    """`s3://BUCKET/PREFIX`; each job writes JOBNAME/output/model.tar.gz below it."""
    rules_image: str = "debugger-rules"
    """What evaluates AWS's managed rules."""
    region: str = "local"
    code_uri: str | None = None
    """URI of the archive of the code that jobs run; None: the code on this machine."""
    takes_first_points: bool = False
    """Whether the search can be told which points to try first."""


def job_definition(cfg: DictConfig, target: JobTarget, name: str, output_path: str) -> Json:
    """Returns the fields that a TrainingJobDefinition and a CreateTrainingJob request share.

    Args:
        cfg: the settled config; its `backend`, `instance`, `data`, `model` and `objective` are read.
        target: where the job runs.
        name: of the sweep or training.
        output_path: the S3 folder under which SageMaker puts `JOBNAME/output`.
    """
    backend = OmegaConf.to_container(cfg.backend, resolve=True)
    assert isinstance(backend, dict)
    objective = str(cfg.objective.metric)
    others = () if objective == RETURN_METRIC else (*METRICS, *METRICS_AT_END)
    metrics = dict.fromkeys((objective, *others))
    definition: Json = {
        "AlgorithmSpecification": {
            "TrainingImage": target.training_image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": metric, "Regex": metric_regex(metric)} for metric in metrics],
        },
        "RoleArn": target.role_arn,
        "OutputDataConfig": {"S3OutputPath": output_path} | _present(KmsKeyId=backend.get("kms_key")),
        **_schedule(cfg.instance, f"{target.output_path}/{name}/checkpoints"),
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


def resources(cfg: DictConfig) -> Json:
    """Returns the `ResourceConfig` of one kind of instance."""
    instance = cfg.instance
    return _one_type(cfg, str(instance.type)) | _present(VolumeKmsKeyId=cfg.backend.get("volume_kms_key"))


def resource_choices(cfg: DictConfig) -> Json:
    """Returns the `HyperParameterTuningResourceConfig` of several kinds of instances, in order of preference."""
    types = [str(cfg.instance.type), *map(str, cfg.instance.alternatives)]
    return {
        "AllocationStrategy": "Prioritized",
        "InstanceConfigs": [_one_type(cfg, kind) for kind in types],
    } | _present(VolumeKmsKeyId=cfg.backend.get("volume_kms_key"))


def _one_type(cfg: DictConfig, kind: str) -> Json:
    return {
        "InstanceType": kind,
        "InstanceCount": int(cfg.instance.count),
        "VolumeSizeInGB": int(cfg.instance.volume_gb),
    }


def tags(cfg: DictConfig) -> list[Json]:
    """Returns the API's tags of a sweep or training."""
    return [{"Key": str(key), "Value": _text(value)} for key, value in cfg.backend.tags.items()]


def code_hyperparameters(target: JobTarget, isolated: bool) -> dict[str, str]:
    """Returns the hyperparameters that tell SageMaker's training toolkit what to run; none on this machine."""
    if target.code_uri is None:
        return {}
    archive = f"/opt/ml/input/data/{CODE}/{target.code_uri.rpartition('/')[2]}" if isolated else target.code_uri
    return {
        "sagemaker_program": PROGRAM,
        "sagemaker_submit_directory": archive,
        "sagemaker_region": target.region,
        "sagemaker_container_log_level": "20",
    }


def _schedule(instance: DictConfig, checkpoints: str) -> Json:
    """Returns how long a job may take, whether on spare machines, and what happens when one is lost."""
    seconds = round(instance.max_hours * 3600)
    found: Json = {"StoppingCondition": {"MaxRuntimeInSeconds": seconds}}
    if instance.spot:
        wait = 2 * instance.max_hours if instance.max_wait_hours is None else instance.max_wait_hours
        found["EnableManagedSpotTraining"] = True
        found["StoppingCondition"]["MaxWaitTimeInSeconds"] = round(wait * 3600)
    if instance.retries:
        found["RetryStrategy"] = {"MaximumRetryAttempts": int(instance.retries)}
    if instance.spot or instance.retries:
        found["CheckpointConfig"] = {"S3Uri": checkpoints, "LocalPath": "/opt/ml/checkpoints"}
    return found


def _channels(cfg: DictConfig, target: JobTarget) -> list[Json]:
    if target.code_uri is None:
        return []
    channels, mode = [], cfg.backend.input_mode
    if mode is not None and str(cfg.data.url).startswith("s3://"):
        # With the slash it is a folder; without, dogs2/ would come along with dogs/.
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
    """Returns a variable's value as a shell user means it: `true`, not `True`."""
    return str(value).lower() if isinstance(value, bool) else str(value)
