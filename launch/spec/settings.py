"""Declares the settings of the launcher once (type, default, bounds, meaning), and composes and checks its configs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from dogbreed.cli.config import compose as compose_config
from dogbreed.cli.overrides import Overrides, parse
from dogbreed.cli.schema import TRAINING, Schema, search_ranges, store_node
from dogbreed.errors import UserError
from dogbreed.system.settings import nested, setting
from launch.spec.naming import RESERVED_NAMES


@dataclass
class InstanceSettings:
    """What a job runs on at AWS; recorded only for jobs on this machine."""

    type: str = setting("ml.m5.xlarge", "Instance type.")
    count: int = setting(1, "Instances per job.", low=1)
    alternatives: list[str] = setting([], "Further types for a sweep, tried in this order if the first is unavailable.")
    volume_gb: int = setting(30, "Disk size in GB.", low=1)
    max_hours: float | None = setting(
        None,
        "Hours after which a job is stopped; null is 2 at AWS, and 28 days on this machine.",
        low=1 / 3600,
        high=28 * 24,
    )
    spot: bool = setting(
        False, "Use spot instances: cheaper, may be interrupted; the job resumes from its last checkpoint."
    )
    max_wait_hours: float | None = setting(
        None, "Spot: hours for waiting and running together; null is twice max_hours.", low=1 / 3600, high=28 * 24
    )
    retries: int = setting(0, "Restarts after an internal error of AWS.", low=0, high=30)
    keep_alive_minutes: float = setting(
        0, "Minutes that a training's instance stays warm for the next one, at its price.", low=0, high=360
    )
    price_per_hour: float | None = setting(
        None, "Price of one instance-hour, in any currency; null shows hours without a cost.", low=0
    )


@dataclass
class TunerSettings:
    """How a sweep searches."""

    strategy: str = setting(
        "Random",
        "Search strategy; the choices of `tuner` set it.",
        choices=("Auto", "Bayesian", "Grid", "Hyperband", "Random"),
    )
    max_jobs: int | None = setting(6, "Trials in all; null decides by the strategy.", low=1)
    max_parallel_jobs: int = setting(2, "Trials at a time.", low=1)
    max_hours: float | None = setting(
        None, "Hours for the whole sweep; null sets no limit beyond that of the jobs.", low=1 / 30, high=4380
    )
    early_stopping: bool = setting(False, "Stop a trial whose objective falls behind the median of the others.")
    target: float | None = setting(None, "End the sweep when its objective is this good.")
    patience: int | None = setting(None, "End the sweep after this many trials without improvement.", low=3)
    until_converged: bool = setting(False, "End the sweep when the search no longer improves.")
    autotune: bool = setting(False, "AWS only: let AWS choose what the request leaves open.")
    warm_start: list[str] = setting([], "Names of up to 5 earlier sweeps to learn from.")
    warm_start_type: str = setting(
        "TransferLearning",
        "How to use earlier sweeps; with `IdenticalDataAndAlgorithm`, the same space and data, their trials count too.",
        choices=("IdenticalDataAndAlgorithm", "TransferLearning"),
    )
    seed: int | None = setting(
        "${seed}", "Seed of the search; adaptive searches also depend on the order in which trials finish.", low=0
    )


@dataclass
class HyperbandSettings:
    """Further settings of `tuner=hyperband` and `tuner=auto`."""

    min_epochs: int = setting(1, "Epochs before a trial may be stopped.", low=1)
    max_epochs: int = setting(
        "${epochs}", "Epochs of a trial that is never stopped; the largest number if epochs is searched.", low=1
    )


@dataclass
class BackendSettings:
    """Where jobs run: on this machine, as processes, without an account or Docker."""

    name: str = setting(
        "local", "Name of the backend; the choices of `backend` set it.", choices=("local", "sagemaker")
    )
    root: str = setting("outputs", "Folder of sweeps and jobs, with a folder each.")
    environment: dict[str, Any] = setting({}, "Environment variables of every job: +backend.environment.NAME=VALUE.")
    tags: dict[str, Any] = setting({}, "Tags of every sweep and training: +backend.tags.NAME=VALUE.")


@dataclass
class AwsSettings:
    """Further settings of `backend=sagemaker`; null values come from the AWS configuration or the SageMaker SDK."""

    region: str | None = setting(None, "AWS region; null uses AWS_DEFAULT_REGION or that of the profile.")
    role: str | None = setting(None, "ARN of the role of the jobs; null uses that of the current credentials.")
    bucket: str | None = setting(None, "Bucket for code and results; null is sagemaker-REGION-ACCOUNT.")
    bucket_owner: str | None = setting(None, "Account that must own the bucket; null is that of the credentials.")
    prefix: str = setting("dogbreed", "Prefix of everything in the bucket.")
    image: str | None = setting(None, "Training image; null is the SDK's newest PyTorch image for the instance.")
    inference_image: str | None = setting(None, "Image of endpoints; null is the SDK's newest PyTorch inference image.")
    input_mode: str | None = setting(
        None,
        "null streams data.url in the job; `FastFile` and `File` let SageMaker mount or copy it.",
        choices=("FastFile", "File"),
    )
    subnets: list[str] = setting([], "Subnets of a VPC for the jobs, together with security_groups.")
    security_groups: list[str] = setting([], "Security groups for the jobs.")
    kms_key: str | None = setting(None, "Key that encrypts results in the bucket.")
    volume_kms_key: str | None = setting(None, "Key that encrypts the disks of the instances.")
    network_isolation: bool = setting(
        False, "Jobs have no network access: needs an image that contains everything, and an input_mode."
    )
    encrypt_traffic: bool = setting(False, "Encrypt the traffic between the hosts of one job.")


@dataclass
class SweepSettings:
    """One sweep."""

    sweep: dict[str, Any] = setting({}, "KEY: RANGE in Hydra's sweep grammar, as on the command line; for experiments.")
    logs: bool = setting(False, "Print every log line of running trials, prefixed with the trial's number.")
    first_points: list[Any] = setting(
        [], "Known-good starting points: an adaptive search on this machine first tries those within its ranges."
    )
    dry_run: bool = setting(False, "Print the exact, validated request and stop.")
    resume: str | None = setting(None, "Name of a stopped sweep to resume.")


@dataclass
class TrainingJobSettings:
    """One training job."""

    from_tuning: str | None = setting(
        None, "Name of a sweep: train with the settings of its best trial; other overrides take precedence."
    )
    dry_run: bool = setting(False, "Print the exact, validated request and stop.")


@dataclass
class EndpointInstanceSettings:
    """What an endpoint runs on at AWS; recorded only for endpoints on this machine."""

    type: str = setting("ml.m5.large", "Instance type.")
    count: int = setting(1, "Number of instances.", low=1)
    price_per_hour: float | None = setting(
        None, "Price of one instance-hour, in any currency; launch.endpoints adds it up.", low=0
    )


@dataclass
class ServerlessSettings:
    """No instance: AWS starts the model on demand and charges per request."""

    memory_mb: int | None = setting(
        None, "Memory in MB, 1024 to 6144 in steps of 1024; null is not serverless.", low=1024, high=6144
    )
    max_concurrency: int = setting(10, "Concurrent requests.", low=1, high=200)


@dataclass
class AutoscalingSettings:
    """AWS adds and removes instances by the number of requests."""

    max_count: int | None = setting(None, "Largest number of instances; null keeps instance.count.", low=1)
    min_count: int = setting(1, "Smallest number of instances.", low=1)
    requests_per_minute: float = setting(600, "Target load of one instance.", low=0.1)


@dataclass
class DataCaptureSettings:
    """AWS stores requests and responses in S3."""

    percent: int = setting(0, "Percentage of the requests; 0 captures none.", low=0, high=100)
    url: str | None = setting(None, "s3://BUCKET/PREFIX; null is below the bucket and prefix of the backend.")


@dataclass
class DeploySettings:
    """One endpoint."""

    from_training: str | None = setting(
        None, "A training, a trial of a sweep, a sweep (its best trial), or s3://BUCKET/.../model.tar.gz; required."
    )
    name: str | None = setting(None, "Name of the endpoint; null is that of the training or sweep.")
    dry_run: bool = setting(False, "Print the exact, validated requests and stop.")
    answer: str = setting(
        "label",
        "Response: `label` with class name, confidence and the most likely classes, or `index`.",
        choices=("label", "index"),
    )
    top_k: int = setting(5, "Number of most likely classes in a response.", low=1)
    environment: dict[str, Any] = setting(
        {}, "Further environment variables of the model server: +environment.NAME=VALUE."
    )
    instance: EndpointInstanceSettings = nested(EndpointInstanceSettings)
    serverless: ServerlessSettings = nested(ServerlessSettings)
    autoscaling: AutoscalingSettings = nested(AutoscalingSettings)
    data_capture: DataCaptureSettings = nested(DataCaptureSettings)


@dataclass
class PredictSettings:
    """Predictions of an endpoint."""

    output: str = setting("predictions.csv", "CSV file for the predictions of a folder; images it lists are skipped.")
    in_flight: int = setting(16, "Concurrent requests, for a folder.", low=1, high=256)


@dataclass
class PublishSettings:
    """Publishing of images."""

    endpoint_url: str | None = setting(None, "http://HOST:PORT of an S3-compatible server; null is AWS.")
    dry_run: bool = setting(False, "Check the images and print the changes, but write nothing to the target.")
    delete: bool = setting(False, "Delete images at the target that are not in the source.")
    keep_copies: bool = setting(
        False, "Keep images of train that are also in valid or test; they are skipped by default."
    )


BACKEND: Schema = {"backend": (BackendSettings, AwsSettings)}
"""The settings of commands that only look up what exists."""

_JOB: Schema = {**TRAINING, **BACKEND, "instance": (InstanceSettings,)}

SCHEMAS: dict[str, Schema] = {
    "train": TRAINING,
    "tune": {**_JOB, "": (SweepSettings, *TRAINING[""]), "tuner": (TunerSettings, HyperbandSettings)},
    "training": {**_JOB, "": (TrainingJobSettings, *TRAINING[""])},
    "deploy": {"": (DeploySettings,), **BACKEND},
    "predict": {"": (PredictSettings,), **BACKEND},
    "publish": {"": (PublishSettings,)},
}
"""The settings of each config, by the name of its file in `conf/`."""


def compose(config_name: str, overrides: Iterable[str] | Overrides = ()) -> DictConfig:
    """Returns a config of the launcher composed with Hydra `overrides`, every value checked.

    Args:
        config_name: `train`, `tune`, `training`, `deploy`, `predict` or `publish`.
        overrides: `KEY=VALUE` and `GROUP=CHOICE`, as text or parsed.

    Raises:
        UserError: An override cannot be parsed, names an unknown key or choice, or gives a value that is not allowed.
    """
    schema = SCHEMAS[config_name]
    store_node("search", "search_ranges", search_ranges(schema))
    cfg = compose_config(config_name, overrides, schema)
    if "trainer" in cfg and cfg.name in RESERVED_NAMES:  # an endpoint may have such a name
        raise UserError(f"name={cfg.name}: outputs/{cfg.name} has another purpose; choose another name")
    return cfg


def compose_lookup(config_name: str, overrides: Iterable[str]) -> DictConfig:
    """Returns the config of a command that only looks up what exists: it takes settings of the backend alone.

    Raises:
        UserError: as `compose`, or an override sets something else.
    """
    parsed = parse(overrides)
    for override in parsed:
        if override.key_or_group.partition(".")[0] != "backend":
            raise UserError(
                f"{override.input_line}: this command takes only settings of the backend, "
                "such as backend=sagemaker or backend.root=PATH"
            )
    return compose(config_name, parsed)
