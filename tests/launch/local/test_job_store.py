"""The lock, the state and the stop request of a job's folder."""

import errno
import fcntl
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from launch.local.job_store import (
    LOCK,
    LOG,
    STOP,
    TRAINING,
    create_folder,
    lock_if_free,
    new_state,
    read_state,
    request_stop,
)
from tests.launch.local_jobs import training_request


@pytest.fixture
def running(tmp_path):
    """The folder of a job whose lock this process holds."""
    lock = create_folder(tmp_path / "dogs", training_request("dogs"), new_state(TRAINING, "dogs", ["true"], 1.0), LOG)
    yield tmp_path / "dogs"
    os.close(lock)


@pytest.fixture
def nfs(monkeypatch):
    """Locks as on NFS: an exclusive one needs a descriptor that is open for writing, a shared one for reading."""
    flock = fcntl.flock

    def flock_on_nfs(descriptor, operation):
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        if mode == (os.O_RDONLY if operation & fcntl.LOCK_EX else os.O_WRONLY):
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_on_nfs)


def read_only(monkeypatch):
    """Denies write access to the lock file, as another user's job does."""
    open_file = os.open

    def deny_writing(path, flags, *mode):
        if str(path).endswith(LOCK) and flags & os.O_ACCMODE != os.O_RDONLY:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_file(path, flags, *mode)

    monkeypatch.setattr(os, "open", deny_writing)


@pytest.mark.parametrize("own", [True, False], ids=["own", "of another user"])
def test_lock_if_free_works_on_nfs(running, nfs, monkeypatch, own):
    if not own:
        read_only(monkeypatch)
    with lock_if_free(running) as free:
        assert not free
    assert read_state(running)["status"] == "InProgress"


@pytest.mark.parametrize("own", [True, False], ids=["own", "of another user"])
def test_lock_if_free_holds_a_free_lock(tmp_path, nfs, monkeypatch, own):
    lock_path = tmp_path / LOCK
    lock_path.touch()
    if not own:
        read_only(monkeypatch)
    with lock_if_free(tmp_path) as free:
        assert free
        with lock_path.open("rb+") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_request_stop_keeps_the_first_of_many(running):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: request_stop(running, "user", str(number)), range(8)))
    request_stop(running, "early_stopping", "too late")
    assert json.loads((running / STOP).read_text())["kind"] == "user"
    assert read_state(running)["status"] == "Stopping"


def test_request_stop_on_full_disk_can_be_repeated(running, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(json, "dump", fail)
        with pytest.raises(OSError, match="No space left"):
            request_stop(running, "user", "first")
    request_stop(running, "user", "second")
    assert json.loads((running / STOP).read_text())["reason"] == "second"
