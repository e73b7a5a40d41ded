"""Fixtures of the launcher's tests that the proofs share."""

from tests.launch.conftest import aws, credentials, moto_url

__all__ = ["aws", "credentials", "moto_url"]
