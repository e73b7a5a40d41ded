"""Address and folder of the tests' S3 server; not in a conftest, because several modules have that name."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class S3Server:
    """A running server; buckets are the folders below `root`."""

    url: str
    root: Path
    access_key: str = "test-key"
    secret_key: str = "test-secret"
