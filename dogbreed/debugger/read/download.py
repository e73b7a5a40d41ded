"""Copies the records of a training from S3. No torch here."""

from __future__ import annotations

import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dogbreed.debugger import files
from dogbreed.errors import UserError

_CONNECTIONS = 16

_RECORDED = (
    *(files.DEBUG, files.DEBUG_OUTPUT, files.PROFILER_OUTPUT),
    *("collections", "index", "events", "training_job_end.ts", "config.yaml"),
)
"""First parts of the paths that are copied."""

_ARCHIVE = "output/output.tar.gz"
"""Where SageMaker stores the output folder of a training job, records included."""


def download(url: str, target: Path) -> Path:
    """Copies the records under an S3 prefix; returns their folder.

    Args:
        url: `s3://bucket/prefix` of a job or of an smdebug folder.
        target: Parent of the folder, which is named like the last part of the prefix.

    Raises:
        UserError: nothing is recorded there, or it cannot be read.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = url.removeprefix("s3://").strip("/").partition("/")
    folder = target / (prefix.rpartition("/")[2] or bucket)
    try:
        client = boto3.Session().client("s3")
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix and prefix + "/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        names = {key: key.removeprefix(prefix).lstrip("/") for key in keys}
        wanted = {key: name for key, name in names.items() if _is_record(name) or name.endswith(_ARCHIVE)}

        def fetch(key: str) -> None:
            path = folder / wanted[key]
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, key, str(path))

        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            list(pool.map(fetch, wanted))
    except (ClientError, BotoCoreError) as error:
        raise UserError(f"{url} cannot be read ({error}); check the name and your AWS credentials") from error
    if not wanted:
        raise UserError(f"nothing recorded under {url}; give the prefix that holds debug-output/ or profiler-output/")
    for archive in folder.rglob(_ARCHIVE):
        _extract(archive, archive.parents[1])
    return folder


def _is_record(name: str) -> bool:
    parts = name.split("/")
    return parts[0] in _RECORDED and ".." not in parts and not name.endswith("/")


def _extract(path: Path, folder: Path) -> None:
    """Extracts the records from a job's archive; only plain files at known paths."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                content = archive.extractfile(member) if member.isfile() and _is_record(name) else None
                if content is not None:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    with (folder / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); download it again") from error
