"""One training job on this machine, watched from its start to its end by a small process.

    python -m launch.local.jobs.training_job FOLDER LOCK

`create_training_job` and the tuner start it and go their own ways: it runs the job's command, scrapes its log, keeps
its time limit, stops it when asked (or when the tuner that owns it is gone), packs the model and writes the last word.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from launch.local.job_store import LOG, METRICS, STOP, read_json, unheld
from launch.local.jobs.container import job_environment, prepare_ml
from launch.local.jobs.metrics import Scraper
from launch.local.jobs.process import Process, start_process
from launch.local.jobs.supervisor import Supervisor, supervise

POLL_S = 0.1
DEFAULT_MAX_RUNTIME_S = 86_400
MAX_REASON_CHARACTERS = 1024

Json = dict[str, Any]


class Stop(NamedTuple):
    """Why a job is being stopped."""

    kind: str
    because: str


class TrainingJob(Supervisor):
    """A training job in `folder`, whose lock this process holds."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.stop: Stop | None = None
        self._kill_at = 0.0
        definitions = self.request["AlgorithmSpecification"].get("MetricDefinitions", [])
        self._scraper = Scraper(folder / LOG, definitions, folder / METRICS)

    def run(self) -> None:
        """Runs the job to its end; whatever happens, its process does not outlive this call."""
        self._listen()
        try:
            process = self._start()
            if process is not None:
                try:
                    self._watch(process)
                finally:
                    kill_group(process)  # at once: once the model is packed, its number may be another process's
                self._scrape(last=True)
                self._finish(process.returncode)
        except OSError as error:  # a full disk, a folder removed under the job
            self._end("Failed", "Failed", f"InternalServerError: {error}")

    def _start(self) -> Process | None:
        """Starts the command in a process group of its own; None where it cannot be started."""
        self._enter("InProgress", "Starting", "Preparing the folder of the job")
        owner = self._owner()
        root = owner.parent if owner else self.folder.parent
        ml = prepare_ml(self.folder, self.request, root)
        environment = job_environment(ml, self.request, self.state["arn"], self.state.get("parallel", 1))
        environment.setdefault("DOGBREED_FEATURES", str(root / ".features"))  # one place for all jobs
        command = self.state["command"]
        try:
            process = start_process(self.state.get("warm"), command, self.folder / LOG, environment)
        except OSError as error:
            self._end("Failed", "Failed", f"AlgorithmError: {command[0]} cannot be started: {error.strerror}")
            return None
        self.state |= {"pid": process.pid, "started": time.time()}  # together: without both no one else can end it
        try:
            self._enter("InProgress", "Training", "Training is in progress")
        except OSError:
            kill_group(process)
            raise
        return process

    def _watch(self, process: Process) -> None:
        """Returns when the process has ended; scrapes and looks for reasons to stop it meanwhile."""
        condition = self.request.get("StoppingCondition", {})
        deadline = time.monotonic() + condition.get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_S)
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)
                return
            self._scrape()
            if self.stop is None:
                self.stop = self._reason_to_stop(deadline)
                if self.stop is not None:
                    self._begin_to_stop(process)
            elif time.monotonic() > self._kill_at:
                kill_group(process)

    def _reason_to_stop(self, deadline: float) -> Stop | None:
        self._check_folder()
        asked = read_json(self.folder / STOP)
        if asked:
            return Stop(asked["kind"], asked["because"])
        if self._told_to_end:
            return Stop("terminated", "Its supervisor process was told to end")
        if time.monotonic() > deadline:
            return Stop("max_runtime", "The job ran longer than MaxRuntimeInSeconds")
        owner = self._owner()
        if owner is not None:
            with unheld(owner) as orphaned:
                if orphaned:
                    return Stop("sweep_stopped", "The tuning job that started it is gone")
        return None

    def _begin_to_stop(self, process: Process) -> None:
        assert self.stop is not None
        self.state["stopped_by"] = self.stop.kind
        self._enter("Stopping", "Stopping", self.stop.because)
        self._kill_at = time.monotonic() + self.state["stop_grace_s"]
        signal_group(process, signal.SIGTERM)

    def _scrape(self, last: bool = False) -> None:
        found = self._scraper.read(last)
        for metric in found:
            self.state.setdefault("metrics", {})[metric["name"]] = [metric["value"], metric["time"]]
        if found:
            self._save()

    def _finish(self, exit_code: int) -> None:
        """Packs the model and writes how the job ended; a job that was stopped keeps what it saved until then."""
        output = self.folder / "ml" / "output"
        if self.stop is None and exit_code == 0:
            (output / "success").touch()
        if self.stop is None and exit_code != 0:
            self._end("Failed", "Failed", _failure_reason(output / "failure", exit_code, self.folder / LOG))
            return
        if self.stop is None:
            self._enter("InProgress", "Uploading", "Packing the model")
        pack_model(self.folder / "ml" / "model", self.folder / "output" / "model.tar.gz")
        if self.stop is None:
            self._end("Completed", "Completed", "")
        else:
            secondary = "MaxRuntimeExceeded" if self.stop.kind == "max_runtime" else "Stopped"
            self._end("Stopped", secondary, self.stop.because)

    def _end(self, status: str, secondary: str, message: str) -> None:
        if status == "Failed":
            self.state["failure"] = message[:MAX_REASON_CHARACTERS]
        self.state["ended"] = time.time()
        self._enter(status, secondary, message)

    def _enter(self, status: str, secondary: str, message: str) -> None:
        now = time.time()
        transitions = self.state.setdefault("transitions", [])
        if transitions:
            transitions[-1]["end"] = now
        transitions.append({"status": secondary, "start": now, "message": message})
        if status in {"Completed", "Failed", "Stopped"}:
            transitions[-1]["end"] = now
        self._save(status=status, secondary=secondary)

    def _owner(self) -> Path | None:
        """Returns the folder of the tuning job that started this one, if one did."""
        return self.folder.parent if "tuning_job" in self.state else None


def pack_model(model: Path, archive: Path) -> None:
    """Writes what lies in `model` as a gzipped tar, as SageMaker uploads it.

    Stored, not compressed: weights are noise to gzip, which makes them 7 % smaller for a second per 60 MB.
    """
    archive.parent.mkdir(exist_ok=True)
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        for path in sorted(model.iterdir()):
            tar.add(path, arcname=path.name)


def _failure_reason(failure: Path, exit_code: int, log: Path) -> str:
    """Returns why the job failed: what it wrote itself, else its exit code and the last line of its log."""
    with suppress(OSError):
        written = failure.read_text(encoding="utf-8", errors="replace").strip()
        if written:
            return f"AlgorithmError: {written}"
    return f"AlgorithmError: {exit_words(exit_code, log)}"


def exit_words(exit_code: int, log: Path) -> str:
    """Returns how a process ended, and the last line of its log."""
    end = f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    if exit_code in {-signal.SIGKILL, 128 + signal.SIGKILL}:
        end += " (by hand, or by the system for want of memory)"
    return f"{end}{_last_line(log)}"


def _last_line(log: Path) -> str:
    """Returns `; last line of the log: ...`, or nothing where the log is empty."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4 * MAX_REASON_CHARACTERS))
        lines = file.read().decode("utf-8", "replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"; last line of the log: {last}" if last else ""


def signal_group(process: Process, number: int) -> None:
    """Sends a signal to the process and all it started."""
    with suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        os.killpg(process.pid, number)


def kill_group(process: Process) -> None:
    """Kills the process and all it started, as the end of a container does."""
    signal_group(process, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    supervise(TrainingJob)
