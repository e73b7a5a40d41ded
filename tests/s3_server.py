"""What the tests know of their S3 server. No conftest: pytest has several modules of that name."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class S3Server:
    """A running server; buckets are the folders below `root`."""

    url: str
    root: Path
    access_key: str = "test-key"
    secret_key: str = "test-secret"
