"""AWS as a backend: code goes to S3, jobs and endpoints run on SageMaker instances, logs are in CloudWatch."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from dogbreed.errors import UserError
from launch.backends.aws.account import Account
from launch.backends.aws.cloudwatch import ENDPOINT_LOG_GROUP, CloudWatchLog
from launch.backends.aws.errors import api_errors
from launch.backends.aws.images import image_note
from launch.backends.aws.session import make_client
from launch.backends.aws.source_archive import code_archive, code_key
from launch.backends.base import Backend, LogTail, Upload
from launch.local.jobs.training_job import pack_model
from launch.spec.contract import encode
from launch.spec.requests.endpoint import VARIANT, TrainedModel
from launch.spec.requests.training import Target

SERVERLESS_INSTANCE = "ml.m5.large"
"""Instance type whose image serverless endpoints use: like them, it has no GPU."""


class AwsBackend(Backend):
    """Runs jobs and endpoints on SageMaker."""

    poll_s = 10.0
    detaches = True
    billed = True
    takes_first_points = False
    max_logs = 20  # two requests per log

    @property
    def jobs_root(self) -> None:
        """None: jobs run on other machines."""

    @property
    def results_root(self) -> Path:
        """`aws` in the folder of jobs: a sweep of the same name may have run on this machine."""
        return super().results_root / "aws"

    def client(self) -> Any:
        """Returns boto3's SageMaker client."""
        return self._client("sagemaker")

    def runtime(self) -> Any:
        """Returns boto3's sagemaker-runtime client, for up to 64 threads; `launch.hosting.invoke` does the retries."""
        return self._client(
            "sagemaker-runtime", read_timeout=70, max_pool_connections=64, retries={"total_max_attempts": 1}
        )

    def scaling_client(self) -> Any:
        """Returns boto3's application-autoscaling client."""
        return self._client("application-autoscaling")

    def logs(self, name: str) -> LogTail:
        """Returns the CloudWatch log of training job `name`."""
        return CloudWatchLog(self._client("logs"), name)

    def endpoint_log(self, name: str) -> LogTail:
        """Returns the CloudWatch log of endpoint `name`."""
        return CloudWatchLog(self._client("logs"), VARIANT, f"{ENDPOINT_LOG_GROUP}/{name}")

    def endpoint_page(self, name: str) -> None:
        """Returns None: endpoints on AWS have no web page."""

    def describe_instances(self, cfg: DictConfig) -> str:
        """Returns number and type of the instances of each job, and whether they are spot instances."""
        instance = cfg.instance
        types = " or ".join([instance.type, *instance.alternatives])
        return f"AWS, {instance.count} x {types}{' (spot)' if instance.spot else ''} a job"

    def check_data(self, cfg: DictConfig, out: Console) -> None:
        """Checks nothing: `prepare` checks the URLs, and the job lists them with its own credentials."""

    def prepare(self, cfg: DictConfig, app: Path | None = None) -> tuple[Target, Upload]:
        """Returns role, image and bucket of the jobs, and the upload of their code."""
        _check_reachable(cfg)
        extra = "debug" if OmegaConf.select(cfg, "debugger.smdebug.enabled") else ""
        archive = code_archive(requirements=not cfg.backend.network_isolation, extra=extra, app=app)
        key = code_key(archive)
        with api_errors(cfg):
            account = Account(self.settings)
            image, *others = (account.image(str(name)) for name in (cfg.instance.type, *cfg.instance.alternatives))
            if any(other != image for other in others):
                raise UserError(
                    "instance.alternatives: instances with and without a GPU need different images, and a sweep has "
                    "one: give types of one kind, or backend.image=URI"
                )
            target = Target(
                role_arn=account.role(),
                image=image,
                output_path=account.uri(),
                region=account.region,
                code_uri=account.uri(key),
                image_note=image_note(image, "training", date.today(), bool(self.settings.image)),
            )
        return target, _upload(cfg, account, key, archive)

    def prepare_endpoint(self, cfg: DictConfig, model: TrainedModel) -> tuple[Target, TrainedModel, Upload]:
        """Returns role, image and bucket of the endpoint; the model of a local training is uploaded."""
        with api_errors(cfg):
            account = Account(self.settings, "inference")
            instance = SERVERLESS_INSTANCE if cfg.serverless.memory_mb is not None else str(cfg.instance.type)
            image = account.image(instance)
            note = image_note(image, "inference", date.today(), bool(self.settings.inference_image))
            target = Target(account.role(), image, account.uri(), account.region, image_note=note)
        if model.path is None:
            return target, model, lambda: None
        archive = _model_archive(model.path)
        key = f"models/{hashlib.sha256(archive).hexdigest()[:16]}/model.tar.gz"
        return target, replace(model, url=account.uri(key)), _upload(cfg, account, key, archive)

    def _client(self, service: str, **options: Any) -> Any:
        return make_client(service, self.settings.region, **options)

    def _selection(self, submits: bool) -> list[str]:
        keys = ("role", "bucket", "bucket_owner", "image") if submits else ()
        given = [key for key in keys if self.settings.get(key)]
        region = [f"backend.region={self.settings.region}"] if self.settings.region else []
        return [
            f"backend={self.settings.name}",
            *region,
            *super()._selection(submits),
            *(f"backend.{key}={encode(self.settings[key])}" for key in given),
        ]


def _upload(cfg: DictConfig, account: Account, key: str, archive: bytes) -> Upload:
    def upload() -> None:
        with api_errors(cfg):
            account.upload(key, archive)

    return upload


def _model_archive(path: Path) -> bytes:
    """Returns the content of a model.tar.gz, or of a model folder packed as one."""
    if path.is_file():
        return path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "model" / "model.tar.gz"
        pack_model(path, archive)
        return archive.read_bytes()


def _check_reachable(cfg: DictConfig) -> None:
    """Checks that a job on AWS can reach the images, the weights and its requirements.

    Raises:
        UserError: The job cannot reach one of them; the message names the setting to change.
    """
    url, weights, backend = str(cfg.data.url), str(cfg.model.weights), cfg.backend
    if not url.startswith(("s3://", "demo://")):
        raise UserError(
            f"data.url={url} is a folder of this machine, which a job on AWS cannot read: "
            f"aws s3 sync {url} s3://BUCKET/PREFIX, then data=s3 data.url=s3://BUCKET/PREFIX"
        )
    if weights not in ("hub", "random") and not weights.startswith("s3://"):
        raise UserError(
            f"model.weights={weights} is a file of this machine, which a job on AWS cannot read: "
            f"aws s3 cp {weights} s3://BUCKET/PREFIX/, then model.weights=s3://BUCKET/PREFIX/{Path(weights).name}"
        )
    if not backend.network_isolation:
        return
    if backend.image is None:
        raise UserError(
            "backend.network_isolation=true: nothing can be installed in the job; "
            "give backend.image=URI of an image that contains what requirements.txt lists"
        )
    if url.startswith("s3://") and backend.input_mode is None:
        raise UserError("backend.network_isolation=true: jobs cannot stream; add backend.input_mode=FastFile or File")
    if weights == "hub":
        raise UserError("backend.network_isolation=true: the hub cannot be reached; give model.weights=s3://... too")
