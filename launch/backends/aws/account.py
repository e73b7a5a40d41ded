"""Region, role, bucket and image of an AWS account; missing settings are resolved with the SageMaker SDK.

The SDK takes seconds to import, so it is used only if `backend.role`, `backend.bucket` or the image is missing. With
all three given, no request is sent before `Account.upload`.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import ClientError
from omegaconf import DictConfig

from dogbreed.errors import UserError
from launch.backends.aws.images import newest_image
from launch.backends.aws.session import client_config, open_session

IMAGE_KEYS = {"training": "image", "inference": "inference_image"}
"""Image scope of the SDK to the key of `backend` that names an image explicitly."""


class Account:
    """The settings of an AWS account that requests name.

    Args:
        settings: The `backend` node of the config.
        scope: Purpose of the image, `training` or `inference`.

    Attributes:
        region: AWS region, such as `us-east-1`.

    Raises:
        UserError: No region is configured, or the SDK is needed and is not installed.
    """

    def __init__(self, settings: DictConfig, scope: str = "training") -> None:
        self._settings, self._scope = settings, scope
        self._session = open_session(settings.region)
        self.region: str = self._session.region_name
        self._sdk: Any = None
        self._default_bucket = ""
        if missing := [key for key in ("role", "bucket", IMAGE_KEYS[scope]) if not settings[key]]:
            self._default_bucket = f"sagemaker-{self.region}-{self.identity()['Account']}"
            self._sdk = _sdk_session(self._session, self.bucket(), missing)

    def identity(self) -> dict[str, str]:
        """Returns Account and Arn of the credentials in use."""
        return self._client("sts").get_caller_identity()

    def bucket(self) -> str:
        """Returns the bucket for code and results; by default the SDK's, `sagemaker-REGION-ACCOUNT`."""
        return str(self._settings.bucket or self._default_bucket)

    def role(self) -> str:
        """Returns the ARN of the role that jobs assume; by default the role of the credentials in use.

        Raises:
            UserError: No role is given, and the credentials belong to a user.
        """
        if self._settings.role:
            return str(self._settings.role)
        from sagemaker.core.helper.session_helper import get_execution_role

        try:
            return str(get_execution_role(self._sdk))
        except ValueError as error:
            raise UserError(
                f"no role for the jobs: {error}; type backend.role=arn:aws:iam::ACCOUNT:role/NAME "
                "(one that SageMaker may assume: IAM console, Roles, use case SageMaker)"
            ) from None

    def image(self, instance_type: str) -> str:
        """Returns the URI of the container image; by default the SDK's newest PyTorch image.

        Raises:
            UserError: The SDK knows no image for that region and instance.
        """
        key, scope = IMAGE_KEYS[self._scope], self._scope
        if self._settings[key]:
            return str(self._settings[key])
        return newest_image(self.region, instance_type, scope)

    def uri(self, key: str = "") -> str:
        """Returns the S3 URI of `key` below `backend.prefix` in the bucket."""
        parts = (self.bucket(), str(self._settings.prefix).strip("/"), key)
        return f"s3://{'/'.join(part for part in parts if part)}"

    def upload(self, key: str, archive: bytes) -> None:
        """Uploads an archive to `uri(key)`, unless it is there with the same checksum.

        Creates the SDK's default bucket if needed. Every request names the owner that the bucket must have: names of
        buckets are global, so somebody else may own one that looks like yours.

        Raises:
            UserError: The bucket does not exist, has another owner, or the credentials may not use it.
        """
        owner = str(self._settings.bucket_owner or self.identity()["Account"])
        bucket, s3 = self.bucket(), self._client("s3")
        reasons = {
            "404": f"there is no bucket {bucket}: aws s3 mb s3://{bucket} --region {self.region}, or give another",
            "403": f"these credentials may not use the bucket {bucket}, or account {owner} does not own it: give "
            "another, or ask its owner; for a bucket of another account add backend.bucket_owner=ACCOUNT",
            "301": f"the bucket {bucket} is in another region than {self.region}: give one that is in it",
        }
        try:
            if not self._settings.bucket:
                self._sdk.default_bucket()
            s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=owner)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in reasons:
                raise
            raise UserError(f"{reasons[code]} (backend.bucket=NAME)") from None
        target = {"Bucket": bucket, "Key": self.uri(key).removeprefix(f"s3://{bucket}/"), "ExpectedBucketOwner": owner}
        checksum = base64.b64encode(hashlib.sha256(archive).digest()).decode()
        if _checksum(s3, target) != checksum:  # also if somebody else put another file there
            kms = self._settings.kms_key
            encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": str(kms)} if kms else {}
            s3.put_object(**target, Body=archive, ChecksumAlgorithm="SHA256", ChecksumSHA256=checksum, **encryption)

    def _client(self, service: str) -> Any:
        return self._session.client(service, config=client_config())


def _checksum(s3: Any, target: dict[str, str]) -> str | None:
    """Returns the SHA-256 checksum that S3 computed of an object; None if there is none, or it cannot be read."""
    try:
        found = s3.head_object(**target, ChecksumMode="ENABLED").get("ChecksumSHA256")
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "403"):  # 403: may write, may not list
            raise
        return None
    return None if found is None else str(found)


def _sdk_session(session: Any, bucket: str, missing: Sequence[str]) -> Any:
    """Returns the SDK's session, which resolves the `missing` keys of the backend.

    Raises:
        UserError: The SDK is not installed.
    """
    logging.getLogger("sagemaker").setLevel(logging.WARNING)  # it logs its config search path on every import
    try:
        from sagemaker.core.helper.session_helper import Session
    except ImportError:
        raise UserError(
            f"{', '.join(f'backend.{key}' for key in missing)} not given, and the SageMaker SDK, which would know, "
            "is not installed: install it: pip install 'dogbreed[sagemaker]', or give them"
        ) from None
    # Given the name, the SDK does not check the bucket's owner, but it would ask the real STS: `upload` checks it.
    return Session(boto_session=session, default_bucket=bucket)
