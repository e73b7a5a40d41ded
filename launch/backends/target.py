"""Where jobs run at AWS: region, role, bucket and image. What the config leaves open, the SageMaker SDK knows.

The SDK takes seconds to import, so it is asked only for what `backend.role`, `backend.bucket` and `backend.image` do
not say; with all three, no request leaves this machine before `Uploader.check`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dogbreed.errors import UserError
from launch.backends.aws.errors import api_errors
from launch.backends.aws.source_archive import code_archive, code_key
from launch.runs.preflight import check_reachable
from launch.spec.requests.debugger import wants_managed_rules
from launch.spec.requests.training import LOCAL_SITE, Site

IMAGE_KEYS = {"training": "image", "inference": "inference_image"}
"""What an image is for, and the key of the backend that names it."""
INSTALL_SDK = "install it: pip install 'dogbreed[sagemaker]'"


def find_site(cfg: DictConfig, app: Path | None = None) -> tuple[Site, Callable[[], None]]:
    """Returns where the jobs of `cfg` run, and what must be called before a request is sent there.

    Args:
        cfg: the settled config.
        app: folder of another application whose code goes to the jobs.

    Raises:
        UserError: something is missing; nothing has been uploaded then.
    """
    if cfg.backend.name != "sagemaker":
        if str(cfg.model.weights).startswith("s3://"):
            raise UserError(f"model.weights={cfg.model.weights}: on this machine give the path of a local file")
        return LOCAL_SITE, lambda: None
    check_reachable(cfg)
    extra = "debug" if OmegaConf.select(cfg, "debugger.smdebug.enabled") else ""
    archive = code_archive(requirements=not cfg.backend.network_isolation, extra=extra, app=app)
    with api_errors(cfg):
        session = Account(cfg.backend)
        bucket, prefix = session.bucket(), str(cfg.backend.prefix).strip("/")
        key = f"{prefix}/{code_key(archive)}" if prefix else code_key(archive)
        site = Site(
            role_arn=session.role(),
            training_image=session.image(str(cfg.instance.type)),
            output_path=f"s3://{bucket}/{prefix}".rstrip("/"),
            region=session.region,
            **({"rules_image": session.rules_image()} if wants_managed_rules(cfg) else {}),
            code_uri=f"s3://{bucket}/{key}",
        )

    def upload() -> None:
        with api_errors(cfg):
            session.check(bucket)
            session.put(bucket, key, archive)

    return site, upload


class Account:
    """What is asked of AWS before a job is sent.

    Args:
        backend: the `backend` node of the config.
        scope: what the image is for, `training` or `inference`.

    Attributes:
        region: AWS's name of the region.

    Raises:
        UserError: no region is configured.
    """

    def __init__(self, backend: DictConfig, scope: str = "training") -> None:
        import boto3

        self._backend, self._scope = backend, scope
        self._image_key = IMAGE_KEYS[scope]
        self._boto = boto3.Session(region_name=backend.region)
        if self._boto.region_name is None:
            raise UserError("no AWS region is configured: type backend.region=us-east-1, or set AWS_DEFAULT_REGION")
        self.region: str = self._boto.region_name
        self._sdk: Any = None
        self._default_bucket = ""
        if missing := [key for key in ("role", "bucket", self._image_key) if not backend[key]]:
            self._default_bucket = f"sagemaker-{self.region}-{self.identity()['Account']}"
            self._sdk = _sdk_session(self._boto, self.bucket(), missing)

    def identity(self) -> dict[str, str]:
        """Returns Account and Arn of the credentials in use: the cheapest request, so the first."""
        return self._boto.client("sts", config=client_config()).get_caller_identity()

    def bucket(self) -> str:
        """Returns the name of the bucket of code and results: the SDK's default one where none is given."""
        return str(self._backend.bucket or self._default_bucket)

    def role(self) -> str:
        """Returns the ARN of the role that jobs run as.

        Raises:
            UserError: none was given, and the credentials in use are a person's, not a role's.
        """
        if self._backend.role:
            return str(self._backend.role)
        from sagemaker.core.helper.session_helper import get_execution_role

        try:
            return str(get_execution_role(self._sdk))
        except ValueError as error:
            raise UserError(
                f"no role for the jobs: {error}; type backend.role=arn:aws:iam::ACCOUNT:role/NAME "
                "(one that SageMaker may assume: IAM console, Roles, use case SageMaker)"
            ) from None

    def image(self, instance_type: str) -> str:
        """Returns the URI of the image: the SDK's newest PyTorch one for the region and instance."""
        if self._backend[self._image_key]:
            return str(self._backend[self._image_key])
        from sagemaker.core import image_uris

        newest = list(image_uris.config_for_framework("pytorch")[self._scope]["versions"])[-1]
        try:
            return str(
                image_uris.retrieve(
                    "pytorch", self.region, version=newest, instance_type=instance_type, image_scope=self._scope
                )
            )
        except (ValueError, KeyError) as error:
            raise UserError(
                f"the SageMaker SDK knows no PyTorch {newest} image for {instance_type} in {self.region} ({error}): "
                f"type backend.{self._image_key}=URI"
            ) from None

    def rules_image(self) -> str:
        """Returns the URI of the image that evaluates AWS's managed rules; the SDK knows each region's.

        Raises:
            UserError: the SDK is not installed.
        """
        try:
            from sagemaker.core import image_uris
        except ImportError:
            raise UserError(f"debugger.managed_rules=true needs the SageMaker SDK: {INSTALL_SDK}") from None
        return str(image_uris.retrieve("debugger", self.region))

    def check(self, bucket: str) -> None:
        """Checks credentials and bucket, so that whatever is wrong with them is said before anything is uploaded.

        The SDK makes its default bucket where it does not exist yet.

        Raises:
            UserError: there is no such bucket, or these credentials may not use it.
        """
        from botocore.exceptions import ClientError

        self.identity()
        if not self._backend.bucket:
            self._sdk.default_bucket()
        try:
            self._s3().head_bucket(Bucket=bucket)
        except ClientError as error:
            reasons = {
                "404": f"there is no bucket {bucket}: aws s3 mb s3://{bucket} --region {self.region}, or give another",
                "403": f"these credentials may not use the bucket {bucket}: give another, or ask its owner",
                "301": f"the bucket {bucket} is in another region than {self.region}: give one that is in it",
            }
            code = error.response["Error"]["Code"]
            if code not in reasons:
                raise
            raise UserError(f"{reasons[code]} (backend.bucket=NAME)") from None

    def put(self, bucket: str, key: str, archive: bytes) -> None:
        """Uploads the code, unless the same code lies there already."""
        from botocore.exceptions import ClientError

        s3, place = self._s3(), {"Bucket": bucket, "Key": key}
        try:
            s3.head_object(**place)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "403"):  # 403: may write, may not list
                raise
            kms = self._backend.kms_key
            encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": str(kms)} if kms else {}
            s3.put_object(**place, Body=archive, **encryption)

    def _s3(self) -> Any:
        return self._boto.client("s3", config=client_config())


def client_config() -> Any:
    """Returns how boto3 talks to AWS: eight attempts, longer and longer apart; AWS asks for that when it throttles."""
    from botocore.config import Config

    return Config(retries={"mode": "standard", "total_max_attempts": 8}, connect_timeout=10, read_timeout=30)


def _sdk_session(boto: Any, bucket: str, missing: Sequence[str]) -> Any:
    """Returns the SDK's session for `bucket`; it is asked for the keys of the backend that are `missing`.

    Raises:
        UserError: the SDK is not installed.
    """
    logging.getLogger("sagemaker").setLevel(logging.WARNING)  # it greets with where it looked for its own config
    try:
        from sagemaker.core.helper.session_helper import Session
    except ImportError:
        raise UserError(
            f"{', '.join(f'backend.{key}' for key in missing)} not given, and the SageMaker SDK, which would know, "
            f"is not installed: {INSTALL_SDK}, or give them"
        ) from None
    return Session(boto_session=boto, default_bucket=bucket)
