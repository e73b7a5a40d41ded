"""Turns errors of AWS, or of this machine in its place, into one-line messages that end with advice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as boto
from omegaconf import DictConfig

from dogbreed.errors import UserError

LOG_IN = "log in again (aws sso login, aws configure), or set AWS_PROFILE to a profile that works"
THROTTLED = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"})
EXPIRED = frozenset({"ExpiredTokenException", "ExpiredToken", "RequestExpired"})
UNKNOWN_KEY = frozenset({"UnrecognizedClientException", "InvalidClientTokenId", "SignatureDoesNotMatch"})
ADVICE = {
    "ResourceInUse": "choose another name with name=NAME, or resume a stopped sweep: resume=NAME",
    "ResourceNotFound": "python -m launch.status lists the existing names",
    "AccessDeniedException": "the credentials in use lack this permission: ask for it, or use others",
    "AccessDenied": "the credentials in use lack this permission: ask for it, or use others",
    **dict.fromkeys(THROTTLED, "AWS throttles requests, even after eight attempts: try again in a minute"),
    **dict.fromkeys(EXPIRED, f"the credentials have expired: {LOG_IN}"),
    **dict.fromkeys(UNKNOWN_KEY, f"AWS does not know these credentials: {LOG_IN}"),
}
"""Error code to advice."""

REFUSALS = (
    (r"[Cc]ould not assume role", "its trust policy must name sagemaker.amazonaws.com; or give backend.role=ARN"),
    (r"[Nn]o S3 objects found|NoSuchBucket|bucket does not exist", "check data.url and backend.bucket"),
)
"""Pattern in the message of a ValidationException, and advice."""

FAILURES = (
    (r"CapacityError|Insufficient\w*Capacity", "AWS has no such machine free: another instance.type, instance."
     "alternatives=[TYPE,TYPE] for a sweep, another backend.region, or try again later"),
    (r"ResourceLimitExceeded", "ask for a higher quota in the Service Quotas console, or choose another instance.type"),
    (r"[Aa]ccess ?[Dd]enied|not authorized|403 Forbidden", "the role of the job (backend.role) lacks this permission"),
    (r"[Oo]ut ?[Oo]f ?[Mm]emory|CUDA error: out of memory|SIGKILL|exit code 137", "a smaller batch_size, or an "
     "instance.type with more memory"),
    (r"ping health check", "see the end of its log; if it could not install its requirements: does its network "
     "reach PyPI? Otherwise give backend.inference_image=URI with all of them"),
    (r"[Nn]o space left", "a larger instance.volume_gb, or backend.input_mode=null to stream"),
    (r"[Ii]mage.*(not found|does not exist)|CannotPullContainer", "check backend.image and its region"),
    (r"No matching distribution|pip.*(install|failed)|requirements\.txt", "the job could not install its requirements: "
     "does its network (backend.subnets) reach PyPI? Otherwise give backend.image=URI with all of them"),
)  # fmt: skip
"""Pattern in the FailureReason of a job, and advice."""

_MISSING = r"[Cc]ould not find|[Nn]ot found|does not exist"


def is_not_found(error: boto.ClientError) -> bool:
    """Returns whether the API reports that a resource does not exist."""
    code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
    return code == "ResourceNotFound" or (code == "ValidationException" and bool(re.search(_MISSING, message)))


NETWORK_ERRORS = (boto.HTTPClientError, boto.EndpointConnectionError, boto.ConnectionError)
"""Errors between this machine and AWS: the request may have had its effect."""


def is_rejected(error: Exception) -> bool:
    """Returns whether a request certainly had no effect: not sent, or its first attempt was rejected."""
    if not isinstance(error, boto.ClientError):
        return not isinstance(error, NETWORK_ERRORS)
    meta = error.response.get("ResponseMetadata", {})
    return meta.get("HTTPStatusCode", 400) < 500 and not meta.get("RetryAttempts")


@contextmanager
def api_errors(cfg: DictConfig | None = None, then: str = "") -> Iterator[None]:
    """Turns an error of the API client into a `UserError` with its message and the advice for it.

    Args:
        cfg: The config in use; its instance type and region make the advice on quotas concrete.
        then: Text that follows the message, for example how to follow a job that keeps running.
    """
    try:
        yield
    except boto.ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        advice = _quota(message, cfg) if code == "ResourceLimitExceeded" else ADVICE.get(code)
        advice = advice or _matching(REFUSALS, message)
        after = f"; {advice}" if advice else ""
        raise UserError(f"{message.rstrip('.')} ({error.operation_name}: {code}){after}{then}") from error
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError) as error:
        raise UserError(f"no AWS credentials were found ({error}): {LOG_IN}{then}") from error
    except (boto.SSOError, boto.TokenRetrievalError, boto.UnauthorizedSSOTokenError) as error:
        raise UserError(f"the AWS login has ended ({error}): {LOG_IN}{then}") from error
    except boto.ProfileNotFound as error:
        raise UserError(f"{error}; aws configure list-profiles shows them") from error
    except boto.ParamValidationError as error:  # requests were validated: a name was invalid
        problem = " ".join(str(error.kwargs["report"]).split())
        raise UserError(f"no such name ({problem}); python -m launch.status lists the existing names") from error
    except NETWORK_ERRORS as error:
        raise UserError(f"AWS cannot be reached: {error}; check the network and backend.region{then}") from error
    except boto.BotoCoreError as error:  # a mistake in the region or in the AWS configuration
        raise UserError(
            f"{' '.join(str(error).split())}: check backend.region and the AWS configuration{then}"
        ) from error


def _quota(message: str, cfg: DictConfig | None) -> str:
    """Returns which quota to raise, where, and for which instance type."""
    instance = cfg.instance if cfg is not None and "instance" in cfg else None
    named = re.search(r"limit '([^']+)'", message)
    kind = "spot training job usage" if instance is not None and instance.get("spot") else "training job usage"
    fewer = "or fewer at a time: tuner.max_parallel_jobs, instance.count"
    if cfg is not None and "serverless" in cfg:  # deploy.yaml
        kind, fewer = "endpoint usage", "a smaller instance.count, or serverless.memory_mb=4096"
    quota = named[1] if named else f"{instance.type} for {kind}" if instance is not None else "named in the error"
    region = region_of(cfg) or "your region"
    return (
        f"ask for a higher quota '{quota}' of Amazon SageMaker in {region} "
        f"(https://{region}.console.aws.amazon.com/servicequotas/home/services/sagemaker/quotas), "
        f"or choose another instance.type, {fewer}"
    )


def region_of(cfg: DictConfig | None) -> str | None:
    """Returns the AWS region of `cfg` or of the AWS configuration; None if neither sets one."""
    import boto3

    given = cfg.backend.get("region") if cfg is not None and "backend" in cfg else None
    return boto3.Session(region_name=given).region_name


def explain_failure(reason: str) -> str:
    """Returns the FailureReason of a job, followed by advice if there is any."""
    advice = _matching(FAILURES, reason)
    return f"{reason.rstrip('. ')}; {advice}" if advice else reason


def _matching(table: tuple[tuple[str, str], ...], text: str) -> str:
    return next((advice for pattern, advice in table if re.search(pattern, text)), "")
