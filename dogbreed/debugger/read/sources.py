"""Whatever holds a record of a training: a run's folder, an smdebug folder, an old SageMaker job's, one on S3."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dogbreed.debugger import files
from dogbreed.debugger.read.reader import add_system, read_run
from dogbreed.debugger.read.smdebug_trial import is_smdebug, read_smdebug
from dogbreed.debugger.recording import Missing, Recording
from dogbreed.errors import UserError

_CONNECTIONS = 16


def is_run(folder: Path) -> bool:
    """Returns whether one of our own recorders wrote into `folder`."""
    return any((folder / files.DEBUG / name).exists() for name in (files.RUN, files.RECORDS, files.TIMINGS))


def run_folders(folder: Path) -> list[Path]:
    """Returns the folders of runs at or below `folder`: itself, the trials of a sweep, a job's output."""
    if is_run(folder) or is_smdebug(folder) or is_old_job(folder):
        return [folder]
    found = {
        path.parent.parent for name in (files.RUN, files.TIMINGS) for path in folder.rglob(f"{files.DEBUG}/{name}")
    }
    return sorted(found)


def is_old_job(folder: Path) -> bool:
    """Returns whether `folder` is laid out as SageMaker leaves a job with Debugger: debug-output, profiler-output."""
    return is_smdebug(folder / files.DEBUG_OUTPUT) or (folder / files.PROFILER_OUTPUT).is_dir()


def read_any(folder: Path) -> Recording:
    """Returns what was recorded in `folder`, by whichever recorder.

    Raises:
        UserError: there is nothing to read, or smdebug is needed and not installed.
    """
    if is_run(folder):
        return read_run(folder)
    if is_smdebug(folder):
        return read_smdebug(folder)
    if not is_old_job(folder):
        expected = (
            "debug/ (a run), collections/ and events/ (smdebug), or debug-output/ and profiler-output/ (SageMaker)"
        )
        raise UserError(f"nothing recorded in {folder}; a report needs {expected}")
    recording = Recording(name=folder.name)
    if is_smdebug(folder / files.DEBUG_OUTPUT):
        recording = read_smdebug(folder / files.DEBUG_OUTPUT)
        recording.name = folder.name
    else:
        recording.problems.append("no debug-output: what happened in the network was not recorded")
    add_system(recording, folder / files.PROFILER_OUTPUT)
    return recording


def add_other_runs(recording: Recording, folders: Sequence[str]) -> None:
    """Adds the tensors of other runs to compare with; one that has none is a problem that is named."""
    runs, reasons = {}, []
    for folder in folders:
        try:
            other = read_any(Path(folder))
        except UserError as error:
            reasons.append(str(error))
            continue
        recording.problems += [f"{folder}: {problem}" for problem in other.problems]
        tensors = other.get("tensors")
        if isinstance(tensors, Missing):
            reasons.append(f"{folder}: {tensors.reason}")
        else:
            runs[Path(folder).name] = tensors
    recording.problems += reasons
    if runs:
        recording.inputs["other_runs"] = runs
    elif reasons:
        recording.missing["other_runs"] = Missing("; ".join(reasons))


_RECORDED = (
    *(files.DEBUG, files.DEBUG_OUTPUT, files.PROFILER_OUTPUT),
    *("collections", "index", "events", "training_job_end.ts", "config.yaml"),
)
"""What is copied of an S3 prefix: the first part of a key below it."""

_PACKED = "output/output.tar.gz"
"""Where SageMaker puts what a training job of ours left in its output folder, records among it."""


def download(url: str, target: Path) -> Path:
    """Copies what was recorded under an S3 prefix below `target`; returns the folder.

    Args:
        url: `s3://bucket/prefix` of a job or of an smdebug folder.
        target: Where to put it, in a folder named as the prefix ends.

    Raises:
        UserError: nothing is there, or it cannot be read.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = url.removeprefix("s3://").strip("/").partition("/")
    folder = target / (prefix.rpartition("/")[2] or bucket)
    try:
        client = boto3.Session().client("s3")
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix and prefix + "/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        inside = {key: key.removeprefix(prefix).lstrip("/") for key in keys}
        wanted = {key: name for key, name in inside.items() if _is_record(name)}

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
    for packed in folder.rglob(_PACKED):
        _unpack(packed, packed.parents[1])
    return folder


def _is_record(name: str) -> bool:
    parts = name.split("/")
    return not name.endswith("/") and ".." not in parts and (parts[0] in _RECORDED or name.endswith(_PACKED))


def _unpack(packed: Path, folder: Path) -> None:
    """Takes the records out of a job's archive of its output folder."""
    try:
        with tarfile.open(packed) as archive:
            members = [member for member in archive if _is_record(member.name.removeprefix("./")) and member.isfile()]
            archive.extractall(folder, members, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{packed} is damaged ({error}); download it again") from error
