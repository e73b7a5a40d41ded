"""What AWS, or this machine in its place, refuses: one line that ends in what to do."""

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
    "ResourceInUse": "choose another name with name=NAME, or go on with a stopped sweep: resume=NAME",
    "ResourceNotFound": "python -m launch.status lists what there is",
    "AccessDeniedException": "the credentials in use lack this permission: ask for it, or use others",
    "AccessDenied": "the credentials in use lack this permission: ask for it, or use others",
    **dict.fromkeys(THROTTLED, "AWS asks for fewer requests, also after eight attempts: try again in a minute"),
    **dict.fromkeys(EXPIRED, f"the credentials have expired: {LOG_IN}"),
    **dict.fromkeys(UNKNOWN_KEY, f"AWS does not know these credentials: {LOG_IN}"),
}
"""Error code to what one can do about it."""

REFUSALS = (
    (r"[Cc]ould not assume role", "its trust policy must name sagemaker.amazonaws.com; or give backend.role=ARN"),
    (r"[Nn]o S3 objects found|NoSuchBucket|bucket does not exist", "look at data.url and backend.bucket"),
)
"""What a ValidationException may say, and what to do then."""

FAILURES = (
    (r"CapacityError|Insufficient\w*Capacity", "AWS has no such machine free: another instance.type, instance."
     "alternatives=[TYPE,TYPE] for a sweep, another backend.region, or the same again later"),
    (r"ResourceLimitExceeded", "ask for a higher quota in the Service Quotas console, or take another instance.type"),
    (r"[Aa]ccess ?[Dd]enied|not authorized|403 Forbidden", "the role of the job (backend.role) lacks this permission"),
    (r"[Oo]ut ?[Oo]f ?[Mm]emory|CUDA error: out of memory|SIGKILL|exit code 137", "a smaller batch_size, or an "
     "instance.type with more memory"),
    (r"ping health check", "the end of its log says why; where it could not install its requirements: does its network "
     "reach PyPI? else backend.inference_image=URI with all of them"),
    (r"[Nn]o space left", "a larger instance.volume_gb, or backend.input_mode=null to stream"),
    (r"[Ii]mage.*(not found|does not exist)|CannotPullContainer", "look at backend.image and at its region"),
    (r"No matching distribution|pip.*(install|failed)|requirements\.txt", "the job could not install its requirements: "
     "does its network (backend.subnets) reach PyPI? else backend.image=URI with all of them"),
)  # fmt: skip
"""What the FailureReason of a job may say, and what to do then."""


@contextmanager
def api_errors(cfg: DictConfig | None = None, then: str = "") -> Iterator[None]:
    """Turns an error of the API client into a `UserError` with its message and the advice for it.

    Args:
        cfg: the config at hand; its instance type and region make the advice on quotas concrete.
        then: what to type after that, for instance to look again at what goes on at AWS.
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
    except boto.ParamValidationError as error:  # requests were checked: what is left is a name that was typed
        problem = " ".join(str(error.kwargs["report"]).split())
        raise UserError(f"no such name ({problem}); python -m launch.status lists what there is") from error
    except boto.BotoCoreError as error:
        raise UserError(f"AWS cannot be reached: {error}{then}") from error


def _quota(message: str, cfg: DictConfig | None) -> str:
    """Returns which quota to raise, where, and for which instance type."""
    instance = cfg.instance if cfg is not None and "instance" in cfg else None
    named = re.search(r"limit '([^']+)'", message)
    kind = "spot training job usage" if instance is not None and instance.get("spot") else "training job usage"
    fewer = "or fewer at a time: tuner.max_parallel_jobs, instance.count"
    if cfg is not None and "serverless" in cfg:  # deploy.yaml
        kind, fewer = "endpoint usage", "a smaller instance.count, or serverless.memory_mb=4096"
    quota = named[1] if named else f"{instance.type} for {kind}" if instance is not None else "the one it names"
    region = region_of(cfg) or "your region"
    return (
        f"ask for a higher quota '{quota}' of Amazon SageMaker in {region} "
        f"(https://{region}.console.aws.amazon.com/servicequotas/home/services/sagemaker/quotas), "
        f"or take another instance.type, {fewer}"
    )


def region_of(cfg: DictConfig | None) -> str | None:
    """Returns the AWS region that `cfg` and the AWS configuration name; None where they name none."""
    import boto3

    given = cfg.backend.get("region") if cfg is not None and "backend" in cfg else None
    return boto3.Session(region_name=given).region_name


def explain_failure(reason: str) -> str:
    """Returns the FailureReason of a job, followed by what to do where that is known."""
    advice = _matching(FAILURES, reason)
    return f"{reason.rstrip('. ')}; {advice}" if advice else reason


def _matching(table: tuple[tuple[str, str], ...], text: str) -> str:
    return next((advice for pattern, advice in table if re.search(pattern, text)), "")
