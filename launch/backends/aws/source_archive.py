"""Packs the code of a job on AWS into one small, reproducible archive.

SageMaker's training toolkit unpacks it, installs its requirements.txt and runs its `run_job.py`.
"""

from __future__ import annotations

import configparser
import gzip
import hashlib
import importlib.metadata
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from dogbreed.cli.groups import conf_dir
from dogbreed.errors import UserError
from launch.spec.contract import PROGRAM

ARCHIVE = "sourcedir.tar.gz"
"""File name that the toolkit and the SDK use."""

IN_IMAGE = frozenset({"torch", "torchvision"})
"""Packages that SageMaker's PyTorch images contain, built for the image's CUDA version."""

LAUNCHER_ONLY = frozenset({"optuna", "matplotlib", "packaging", "starlette", "uvicorn"})
"""Requirements that a job never imports."""

_PROGRAM = b"""import sys

from launch.container.entry import main

sys.exit(main())
"""
_RESERVED = {"dogbreed", "launch", "hydra_plugins", PROGRAM.removesuffix(".py")}
"""Modules of a job that an application must not replace."""

_LEFT_BEHIND = ("__pycache__", "outputs", "multirun", "venv", "node_modules", "site-packages")
_APP_SUFFIXES = (".py", ".yaml")


def code_archive(requirements: bool = True, extra: str = "", app: Path | None = None) -> bytes:
    """Returns `dogbreed`, `launch`, `conf`, `run_job.py` and `requirements.txt` as a gzipped tar.

    Args:
        requirements: Whether to include requirements.txt; False if the job has no network.
        extra: Name of an extra of the project that the job needs too.
        app: Folder of another application whose code and YAML files are added at the root.
    """
    home = Path(__file__).resolve().parents[3]
    packages = ("dogbreed", "launch", "hydra_plugins/hydra_sagemaker_sweeper")
    files = {f"{name}/{path}": data for name in packages for path, data in _files(home / name)}
    files = {path: data for path, data in files.items() if not path.startswith("dogbreed/conf/")}
    files |= {f"conf/{path}": data for path, data in _files(conf_dir())}
    if app:
        own = dict(_files(app, _APP_SUFFIXES))
        if taken := sorted({path.partition("/")[0].removesuffix(".py") for path in own} & _RESERVED):
            raise UserError(f"{app}: rename {', '.join(taken)}: the job's own code has this name")
        files |= own
    files[PROGRAM] = _PROGRAM
    if requirements:
        text = (app / "requirements.txt").read_text() if app and (app / "requirements.txt").is_file() else ""
        files["requirements.txt"] = "\n".join([*text.splitlines(), *job_requirements(extra), ""]).encode()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(files):
            entry = tarfile.TarInfo(path)  # fixed time, owner and mode make the archive reproducible
            entry.size = len(files[path])
            archive.addfile(entry, io.BytesIO(files[path]))
    return gzip.compress(tar.getvalue(), compresslevel=9, mtime=0)


def code_key(archive: bytes) -> str:
    """Returns the archive's key below the prefix; it depends on the content, so the same code is uploaded once."""
    return f"code/{hashlib.sha256(archive).hexdigest()[:16]}/{ARCHIVE}"


def job_requirements(extra: str = "") -> list[str]:
    """Returns the sorted requirements that the image does not contain, pinned to the versions installed here.

    Args:
        extra: Name of an extra of the project that the job needs too.
    """
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in _declared(extra)]
    found: list[str] = []
    for item in wanted:
        name = re.sub(r"[-_.]+", "-", item.name).lower()
        if name in IN_IMAGE | LAUNCHER_ONLY or any(line.startswith(f"{name}==") for line in found):
            continue
        try:
            found.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:  # an extra that only jobs use
            found.append(f"{name}{item.specifier}")
    return sorted(found)


def _declared(extra: str) -> list[str]:
    """Returns the project's declared requirements, from the checkout's setup.cfg or the installed metadata."""
    setup = Path(__file__).resolve().parents[3] / "setup.cfg"
    if setup.is_file():
        declared = configparser.ConfigParser(interpolation=None)
        declared.read(setup)
        text = declared["options"]["install_requires"]
        text += declared["options.extras_require"][extra] if extra else ""
        return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    from packaging.requirements import Requirement

    found = [Requirement(line) for line in importlib.metadata.requires("dogbreed") or []]
    return [
        f"{item.name}{item.specifier}"
        for item in found
        if item.marker is None or item.marker.evaluate({"extra": extra})
    ]


def _files(folder: Path, suffixes: tuple[str, ...] = ("",)) -> Iterator[tuple[str, bytes]]:
    """Yields relative path and content of each file in `folder`, except files that the code wrote when it ran.

    Files with other `suffixes` are not read: a script's folder may contain gigabytes of data.
    """
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        left = any(part.startswith(".") or part in _LEFT_BEHIND for part in below.parts)
        if path.name.endswith(suffixes) and path.is_file() and not left:
            yield below.as_posix(), path.read_bytes()
