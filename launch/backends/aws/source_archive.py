"""The code that goes to a job at AWS: one small archive, the same bytes for the same code.

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
from launch.spec.contract import PROGRAM

ARCHIVE = "sourcedir.tar.gz"
"""The name that the toolkit and the SDK use."""

IN_IMAGE = frozenset({"torch", "torchvision"})
"""What SageMaker's PyTorch images bring, built for their own CUDA."""

LAUNCHER_ONLY = frozenset({"optuna", "matplotlib", "packaging", "starlette", "uvicorn"})
"""What a job never imports."""

_PROGRAM = b"""import sys

from launch.container.entry import main

sys.exit(main())
"""
_LEFT_BEHIND = ("__pycache__", "outputs", "multirun")
_APP_SUFFIXES = (".py", ".yaml")


def code_archive(requirements: bool = True, extra: str = "", app: Path | None = None) -> bytes:
    """Returns `dogbreed`, `launch`, `conf`, `run_job.py` and `requirements.txt` as a gzipped tar.

    Args:
        requirements: False where the job has no network to install anything from.
        extra: name of one of the project's extras that the job needs too.
        app: folder of another application whose code and YAML files lie beside them at the root.
    """
    home = Path(__file__).resolve().parents[3]
    packages = ("dogbreed", "launch", "hydra_plugins/hydra_sagemaker_sweeper")
    files = {f"{name}/{path}": data for name in packages for path, data in _files(home / name)}
    files = {path: data for path, data in files.items() if not path.startswith("dogbreed/conf/")}
    files |= {f"conf/{path}": data for path, data in _files(conf_dir())}
    files |= dict(_files(app, _APP_SUFFIXES)) if app else {}
    files[PROGRAM] = _PROGRAM
    if requirements:
        own = (app / "requirements.txt").read_text() if app and (app / "requirements.txt").is_file() else ""
        files["requirements.txt"] = "\n".join([*own.splitlines(), *job_requirements(extra), ""]).encode()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(files):
            entry = tarfile.TarInfo(path)  # time, owner and mode are the same for everybody
            entry.size = len(files[path])
            archive.addfile(entry, io.BytesIO(files[path]))
    return gzip.compress(tar.getvalue(), compresslevel=9, mtime=0)


def code_key(archive: bytes) -> str:
    """Returns where the archive lies below the prefix; the same code is uploaded once."""
    return f"code/{hashlib.sha256(archive).hexdigest()[:16]}/{ARCHIVE}"


def job_requirements(extra: str = "") -> list[str]:
    """Returns what a job needs beside its image, in the versions that are installed here, sorted.

    Args:
        extra: name of one of the project's extras that the job needs too.
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
    """Returns what the project declares: in the checkout's setup.cfg, or in the metadata of what was installed."""
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
    """Yields path below `folder` and content of each file in it, but for what the code left behind when it ran.

    Nothing is read of files with other `suffixes`: beside a script there may lie gigabytes of data.
    """
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        left = any(part.startswith(".") or part in _LEFT_BEHIND for part in below.parts)
        if path.name.endswith(suffixes) and path.is_file() and not left:
            yield below.as_posix(), path.read_bytes()
