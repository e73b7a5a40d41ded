"""Processes that are warm: a server that has imported everything once, and forks a job's process when it is asked to.

    python -m launch.local.jobs.forkserver SOCKET

SageMaker keeps instances warm between jobs; here it is the Python process, whose imports take longer than the training
of a head on kept features. `launch.local.jobs.process` starts it and asks it for processes. It ends with its standard
input, that is with the tuner, however that ends. A job that crashes is the crash of its own process alone.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import shutil
import socket
import sys
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from launch.local.job_store import redirect

POLL_S = 0.02

IMPORTS = (
    "torch.utils.serialization", "torch.utils.tensorboard", "torchvision.transforms.v2",
    "dogbreed.debugger.callbacks", "dogbreed.debugger.report.report",
    "dogbreed.debugger.rules.evaluate", "dogbreed.features.datamodule",
    "dogbreed.run.train", "launch.container.entry", "rich._emoji_codes",
)  # fmt: skip


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Forks a process for each job that is asked for, and answers with its pid and later with its exit status.

    Returns:
        In each forked process, its job; in the server None, once standard input has ended and no job is left.
    """
    jobs: dict[int, socket.socket] = {}
    sources: list[Any] = [listener, sys.stdin]
    while jobs or sys.stdin in sources:
        ready = select.select(sources, [], [], POLL_S if jobs else None)[0]
        if sys.stdin in ready:
            sources.remove(sys.stdin)
        if listener in ready:
            connection, _ = listener.accept()
            with suppress(OSError, ValueError):  # whoever asked was killed meanwhile
                connection.settimeout(1.0)
                job = json.loads(connection.makefile("rb").readline())
                if (pid := os.fork()) == 0:
                    os.setsid()
                    try:
                        connection.sendall(b"%d\n" % os.getpid())  # only now can its group be signalled
                    except OSError:  # nobody waits for this job any more
                        os._exit(1)
                    for item in (listener, connection, *jobs.values()):
                        item.close()
                    return dict(job)
                jobs[pid] = connection
        for pid in list(jobs):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with suppress(OSError), jobs.pop(pid) as connection:
                    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    return None


def run(job: Mapping[str, Any]) -> int:
    """Makes this forked process the job's, runs `launch.container.entry` and returns the exit status."""
    os.chdir(job["folder"])
    redirect(Path(job["log"]))
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]  # PYTHONUNBUFFERED came too late
    import torch

    from launch.container import entry

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.argv = ["launch.container.entry"]
    return entry.main()


def import_all() -> None:
    """Imports what trainings need. Nothing may compute here: a fork has none of torch's threads."""
    gc.disable()  # nothing of a module is garbage, and to look for it takes a tenth of the imports' time
    from dogbreed.cli.config import compose

    for name in IMPORTS:
        if select.select([sys.stdin], [], [], 0)[0]:
            return  # the tuner has ended already
        importlib.import_module(name)
    from PIL import Image

    from dogbreed.debugger.report.report import page_template

    compose("train", [])
    page_template()
    Image.preinit()
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False  # each job would take torch's libraries apart at its end, for 50 ms
    gc.freeze()  # what is not looked at again is not copied again
    gc.set_threshold(50_000)  # at 700 new objects, as is usual, looking for garbage takes a tenth of a short training
    gc.enable()


def main() -> None:
    """Serves; in a forked process, runs its job."""
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        import_all()
        job = serve(listener)
        if job is None:
            shutil.rmtree(Path(listener.getsockname()).parent, ignore_errors=True)  # also where the tuner was killed
    status = 0 if job is None else run(job)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)  # taking a thousand shared modules apart, one page after the other, would only be work


if __name__ == "__main__":
    main()
