"""Backends, AWS or this machine. Only this package and `launch.local` know which one is in use."""

from __future__ import annotations

from omegaconf import DictConfig

from dogbreed.errors import UserError, did_you_mean
from launch.backends.base import Backend

__all__ = ["Backend", "open_backend"]


def open_backend(cfg: DictConfig) -> Backend:
    """Returns the backend that `cfg.backend` selects.

    Raises:
        UserError: no backend has that name, or a setting of it is invalid.
    """
    name = cfg.backend.name
    if name == "local":
        from launch.backends.local import LocalBackend

        return LocalBackend(cfg.backend)
    if name == "sagemaker":
        from launch.backends.aws.backend import AwsBackend

        return AwsBackend(cfg.backend)
    raise UserError(f"backend={name} is unknown{did_you_mean(str(name), ['local', 'sagemaker'])}")
