"""Container images: the newest PyTorch version that the SageMaker SDK knows, and until when AWS patches it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta

from dogbreed.errors import UserError

FRAMEWORKS = {"training": ("pytorch-amzn2023", "pytorch"), "inference": ("pytorch",)}
"""Image scope to the SDK's names of the lines of images; PyTorch 2.11 and later for training are in the first."""

END_OF_PATCH = {
    "training": {
        "2.9": date(2026, 10, 15), "2.10": date(2027, 1, 21), "2.11": date(2027, 4, 30), "2.12": date(2027, 7, 2),
        "2.13": date(2027, 7, 20),
    },
    "inference": {"2.6": date(2026, 6, 30)},
}  # fmt: skip
"""Image scope to version to the last day of patches, of AWS's framework support policy as of November 2026."""

NOTICE = timedelta(days=60)
"""How long before the last day the plan warns."""

_UNSUPPORTED = {
    "training": (r"ml\.(trn|inf)\d", r"ml\.[a-z]+\d+gd?n?\."),
    "inference": (r"ml\.(trn|inf)\d",),
}
"""Image scope to patterns of instance types for which PyTorch's images are wrong: Neuron chips, ARM processors."""


def newest_image(region: str, instance_type: str, scope: str) -> str:
    """Returns the URI of the newest PyTorch image that the SDK knows for a region and an instance type.

    Raises:
        UserError: The SDK knows none, or the instance type has another processor than the images.
    """
    from sagemaker.core import image_uris

    key = {"training": "image", "inference": "inference_image"}[scope]
    if any(re.match(pattern, instance_type) for pattern in _UNSUPPORTED[scope]):
        raise UserError(f"instance.type={instance_type}: no PyTorch image of AWS runs on it: type backend.{key}=URI")
    reasons = []
    for version, framework in _versions(scope):
        wanted = {"version": version, "instance_type": instance_type, "image_scope": scope}
        try:
            return str(image_uris.retrieve(framework, region, **wanted))
        except (ValueError, KeyError) as error:  # not in this region, or not for this processor
            reasons.append(f"{version}: {error}")
    raise UserError(
        f"the SageMaker SDK knows no PyTorch image for {instance_type} in {region} "
        f"({(reasons or ['no versions'])[0]}): type backend.{key}=URI"
    )


def image_note(uri: str, scope: str, today: date, chosen: bool) -> str:
    """Returns the versions in an image and until when it is patched, with a warning if that is soon.

    Args:
        uri: The image.
        scope: `training` or `inference`.
        today: The current day.
        chosen: Whether the user named the image.

    Raises:
        UserError: A training image is not patched any more, and the user did not name it.
    """
    version = re.search(r":(\d+\.\d+)", uri)
    if version is None:
        return ""
    last = END_OF_PATCH[scope].get(version[1])
    parts = [f"PyTorch {version[1]}", *_python(uri), *_cuda(uri)]
    if last is None:
        return ", ".join([*parts, "end of patches unknown"])
    note = ", ".join([*parts, f"patched until {last}"])
    if last < today:
        if scope == "training" and not chosen:
            raise UserError(f"{uri}: patches ended on {last}: upgrade the SDK (pip install -U sagemaker), or type "
                            "backend.image=URI to use it all the same")  # fmt: skip
        return f"{note}; warning: AWS has not patched it since"
    return f"{note}; warning: in {(last - today).days} days" if last - today <= NOTICE else note


def _versions(scope: str) -> Iterator[tuple[str, str]]:
    """Yields version and framework of the SDK's images, newest first."""
    from sagemaker.core import image_uris

    found = []
    for framework in FRAMEWORKS[scope]:
        try:
            versions = image_uris.config_for_framework(framework)[scope]["versions"]
        except (OSError, ValueError, KeyError):  # an SDK that does not know this line
            continue
        found += [(version, framework) for version in versions]
    yield from sorted(found, key=lambda entry: tuple(map(int, entry[0].split("."))), reverse=True)


def _python(uri: str) -> list[str]:
    found = re.search(r"-py(\d)(\d+)", uri)
    if found:
        return [f"Python {found[1]}.{found[2]}"]
    return ["Python 3.12"] if "amzn2023" in uri else []


def _cuda(uri: str) -> list[str]:
    found = re.search(r"-cu(\d+)(\d)\b", uri)
    return [f"CUDA {found[1]}.{found[2]}"] if found else []
