"""The supervisor of one training job.

    python -m launch.local.jobs.training_job FOLDER LOCK

`create_training_job` and the tuner start it detached. It runs the job's command, scrapes metrics from its log,
enforces its time limit, stops it on request or when its tuning job is gone, packs the model and records the final
status.
"""

from __future__ import annotations

import gzip
import signal
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from launch.local.job_store import FINAL, LOG, METRICS, STOP, lock_if_free, read_json
from launch.local.jobs.container import Share, job_environment, prepare_ml
from launch.local.jobs.metrics import Scraper
from launch.local.jobs.process import (
    MAX_REASON_CHARACTERS,
    Process,
    describe_exit,
    fork_module,
    kill_group,
    signal_group,
    start_process,
)
from launch.local.jobs.supervisor import Supervisor, supervise

POLL_S = 0.05
DEFAULT_MAX_RUNTIME_S = 86_400


class Stop(NamedTuple):
    """Why a job is being stopped."""

    kind: str
    reason: str


class TrainingJob(Supervisor):
    """Supervises a training job."""

    forks = False
    """Whether a command `python -m MODULE` runs in a fork of this process, which has imported the training code."""

    def __init__(self, folder: Path, lock: int):
        super().__init__(folder, lock)
        self.stop: Stop | None = None
        self._kill_at = 0.0
        definitions = self.request["AlgorithmSpecification"].get("MetricDefinitions", [])
        self._scraper = Scraper(folder / LOG, definitions, folder / METRICS)

    def run(self) -> None:
        """Runs the job to its end; its process never outlives this call."""
        self._listen()
        try:
            process = self._start()
            if process is not None:
                try:
                    self._watch(process)
                finally:
                    kill_group(process)  # immediately: after packing the model the process id may have been reused
                self._scrape(last=True)
                self._finish(process.wait())
        except OSError as error:  # a full disk, or the folder was removed
            self._end("Failed", "Failed", f"InternalServerError: {error}")

    def _start(self) -> Process | None:
        """Starts the command; returns None if that fails."""
        self._enter("InProgress", "Starting", "Preparing the folder of the job")
        owner = self._owner()
        root = owner.parent if owner else self.folder.parent
        ml = prepare_ml(self.folder, self.request, root)
        share = Share(self.state.get("parallel", 1), self.state.get("slot", 0))
        environment = job_environment(ml, self.request, self.state["arn"], share)
        environment.setdefault("DOGBREED_FEATURES", str(root / ".features"))  # shared by all jobs
        command, log = self.state["command"], self.folder / LOG
        try:
            if self.forks and command[:2] == [sys.executable, "-m"] and len(command) == 3:
                process = fork_module(command[2], log, environment, private=self._lock)
            else:
                process = start_process(command, log, environment)
        except OSError as error:
            self._end("Failed", "Failed", f"AlgorithmError: {command[0]} cannot be started: {error.strerror}")
            return None
        self.state |= {"pid": process.pid, "started": time.time()}  # kill_stray needs both
        try:
            self._enter("InProgress", "Training", "Training is in progress")
        except OSError:
            kill_group(process)
            raise
        return process

    def _watch(self, process: Process) -> None:
        """Scrapes metrics and handles stop requests until the process has ended."""
        condition = self.request.get("StoppingCondition", {})
        deadline = time.monotonic() + condition.get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_S)
        while process.poll() is None:
            time.sleep(POLL_S)
            self._scrape()
            if self.stop is None:
                self.stop = self._reason_to_stop(deadline)
                if self.stop is not None:
                    self._begin_to_stop(process)
            elif time.monotonic() > self._kill_at:
                kill_group(process)

    def _reason_to_stop(self, deadline: float) -> Stop | None:
        self._check_folder()
        if request := read_json(self.folder / STOP):
            return Stop(request["kind"], request["reason"])
        if self._terminated:
            return Stop("terminated", "The supervisor process received SIGTERM")
        if time.monotonic() > deadline:
            return Stop("max_runtime", "The job ran longer than MaxRuntimeInSeconds")
        owner = self._owner()
        if owner is not None:
            with lock_if_free(owner) as orphaned:
                if orphaned:
                    return Stop("sweep_stopped", "The tuning job that started this job is gone")
        return None

    def _begin_to_stop(self, process: Process) -> None:
        assert self.stop is not None
        self.state["stopped_by"] = self.stop.kind
        self._enter("Stopping", "Stopping", self.stop.reason)
        self._kill_at = time.monotonic() + self.state["stop_grace_s"]
        signal_group(process, signal.SIGTERM)

    def _scrape(self, last: bool = False) -> None:
        metrics = self._scraper.read(last)
        for metric in metrics:
            self.state.setdefault("metrics", {})[metric["name"]] = [metric["value"], metric["time"]]
        if metrics:
            self._save()

    def _finish(self, exit_code: int) -> None:
        """Packs the model, also that of a stopped job, and records the final status."""
        output = self.folder / "ml" / "output"
        if self.stop is None and exit_code != 0:
            self._end("Failed", "Failed", _failure_reason(output / "failure", exit_code, self.folder / LOG))
            return
        if self.stop is None:
            (output / "success").touch()
            self._enter("InProgress", "Uploading", "Packing the model")
        pack_model(self.folder / "ml" / "model", self.folder / "output" / "model.tar.gz")
        if self.stop is None:
            self._end("Completed", "Completed", "")
        else:
            secondary = "MaxRuntimeExceeded" if self.stop.kind == "max_runtime" else "Stopped"
            self._end("Stopped", secondary, self.stop.reason)

    def _end(self, status: str, secondary: str, message: str) -> None:
        if status == "Failed":
            self.state["failure"] = message[:MAX_REASON_CHARACTERS]
        self.state["ended"] = time.time()
        self._enter(status, secondary, message)

    def _enter(self, status: str, secondary: str, message: str) -> None:
        """Records a new status and the transition to it."""
        now = time.time()
        transitions = self.state.setdefault("transitions", [])
        if transitions:
            transitions[-1]["end"] = now
        transitions.append({"status": secondary, "start": now, "message": message})
        if status in FINAL:
            transitions[-1]["end"] = now
        self._save(status=status, secondary=secondary)

    def _owner(self) -> Path | None:
        """Returns the folder of the tuning job that started this one; None if none did."""
        return self.folder.parent if "tuning_job" in self.state else None


class Trial(TrainingJob):
    """Supervises a training job of a sweep, in a fork of the tuner's fork server."""

    forks = True


def pack_model(model: Path, archive: Path) -> None:
    """Writes the content of the folder `model` to `archive`, a .tar.gz as SageMaker uploads it.

    It is stored, not compressed, since weights hardly shrink. The same files give the same bytes.
    """
    archive.parent.mkdir(exist_ok=True)
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=0, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in sorted(model.iterdir()):
            tar.add(path, arcname=path.name)


def _failure_reason(failure: Path, exit_code: int, log: Path) -> str:
    """Returns the reason that the job wrote to output/failure, or else how its process ended."""
    with suppress(OSError):
        written = failure.read_text(encoding="utf-8", errors="replace").strip()
        if written:
            return f"AlgorithmError: {written}"
    return f"AlgorithmError: {describe_exit(exit_code, log)}"


if __name__ == "__main__":
    supervise(TrainingJob)
