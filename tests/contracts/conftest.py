"""Fixtures shared with the launcher's tests."""

from tests.launch.conftest import aws, credentials, moto_url

__all__ = ["aws", "credentials", "moto_url"]
