"""URIs of SageMaker's PyTorch container images, from the SageMaker SDK."""

from __future__ import annotations

from dogbreed.errors import UserError

IMAGE_KEYS = {"training": "image", "inference": "inference_image"}
"""Image scope of the SDK to the key of `backend` that names an image explicitly."""


def newest_image(scope: str, region: str, instance_type: str) -> str:
    """Returns the URI of the newest PyTorch image that the installed SDK knows.

    Args:
        scope: `training` or `inference`.
        region: AWS region.
        instance_type: Decides between the CPU and the GPU image.

    Raises:
        UserError: The SDK knows no image for that region and instance.
    """
    from sagemaker.core import image_uris

    newest = list(image_uris.config_for_framework("pytorch")[scope]["versions"])[-1]
    try:
        return str(
            image_uris.retrieve("pytorch", region, version=newest, instance_type=instance_type, image_scope=scope)
        )
    except (ValueError, KeyError) as error:
        raise UserError(
            f"the SageMaker SDK knows no PyTorch {newest} image for {instance_type} in {region} ({error}): "
            f"type backend.{IMAGE_KEYS[scope]}=URI"
        ) from None
