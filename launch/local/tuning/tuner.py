"""The supervisor of one tuning job: asks the search for points, runs them as trials and enforces the limits.

    python -m launch.local.tuning.tuner FOLDER LOCK

It is the only process that imports Optuna. All of its state is in files, so that any other process can read it, stop
the job or resume it.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from launch.local.job_store import FINAL, METRICS, STOP, Json, read_json, read_state, request_stop
from launch.local.jobs.container import Share
from launch.local.jobs.metrics import LineTail, parse_metrics
from launch.local.jobs.process import Process, start_fork_server
from launch.local.jobs.supervisor import Supervisor, supervise
from launch.local.tuning.completion import Completion
from launch.local.tuning.objective import final_objective
from launch.local.tuning.trials import SUPERVISOR, ancestors, start_trial, trial_folders
from launch.spec.contract import APP

if TYPE_CHECKING:
    from launch.local.tuning.search import PastJob

POLL_S = 0.03
ENTRY = [sys.executable, "-m", "launch.container.entry"]
"""The command that trains with dogbreed, unless its hyperparameters name another application."""
TRAINING_MODULES = (
    "dogbreed.train",
    "dogbreed.run.train",
    "dogbreed.debugger.callbacks",
    "dogbreed.debugger.report.report",
    "dogbreed.features.datamodule",
    "jinja2",
    "torch.utils.serialization",
    "torch.utils.tensorboard",
    "torchvision.transforms.v2",
)
"""What such a trial imports; the fork server imports it once for all trials."""
INTERRUPTED = frozenset({"sweep_stopped", "terminated", "lost"})
"""Kinds of stop after which a resumed tuning job tries the point again."""


@dataclass
class Running:
    """A running trial."""

    folder: Path
    supervisor: Process
    slot: int
    """Index among the trials that run at the same time."""
    number: int
    """Number of its proposal."""
    metrics: LineTail
    stopping: bool = False


class End(NamedTuple):
    """How a tuning job ends."""

    status: str
    stop_kind: str
    """Kind of stop for the trials that still run."""
    reason: str


class Tuner(Supervisor):
    """Supervises a tuning job."""

    def __init__(self, folder: Path, lock: int):
        super().__init__(folder, lock)
        config = self.request["HyperParameterTuningJobConfig"]
        definition = self.request["TrainingJobDefinition"]
        static = definition.get("StaticHyperParameters", {})
        limits = config["ResourceLimits"]
        self.max_parallel: int = limits["MaxParallelTrainingJobs"]
        trains = self.state["command"] == ENTRY and APP not in static
        # The modules read these variables when they are imported, and that takes longer than all that follows.
        os.environ.update(definition.get("Environment", {}))
        os.environ.setdefault("OMP_NUM_THREADS", str(Share(self.max_parallel).cpus))
        start_fork_server([SUPERVISOR, *(TRAINING_MODULES if trains else ())])
        from launch.local.tuning.search import Search

        self.objective: Json = config["HyperParameterTuningJobObjective"]
        warm_start = self.request.get("WarmStartConfig", {}).get("WarmStartType")
        past = past_jobs(folder, self.request, self.objective)
        self.search = Search(config, static, past, same_data=warm_start == "IdenticalDataAndAlgorithm")
        self.max_jobs: float = limits.get("MaxNumberOfTrainingJobs", self.search.space.size)
        self.completion = Completion(config)
        self.running: list[Running] = []
        self.launched = 0
        self._exhausted = False
        age_s = time.time() - self.state["created"]
        self._deadline = time.monotonic() - age_s + limits.get("MaxRuntimeInSeconds", float("inf"))

    def run(self) -> None:
        """Runs the tuning job to its end."""
        self._listen()
        self._save()
        try:
            while (end := self._end()) is None:
                self._launch()
                time.sleep(POLL_S)
                self._collect()
            for job in self.running:
                request_stop(job.folder, end.stop_kind, f"The tuning job ends: {end.reason}")
            while self.running:
                time.sleep(POLL_S)
                self._collect()
        except OSError as error:  # a full disk; the trials stop once this process has released its lock
            end = End("Failed", "sweep_stopped", f"InternalServerError: {error}")
        if end.status == "Failed":
            self.state["failure"] = end.reason
        self._save(status=end.status, ended=time.time(), note=end.reason)
        print(f"{end.status}: {end.reason}", flush=True)

    def _end(self) -> End | None:
        """Returns how the tuning job ends; None while it continues."""
        self._check_folder()
        request = read_json(self.folder / STOP)
        if request or self._terminated:
            return End("Stopped", "sweep_stopped", request.get("reason", "its supervisor received SIGTERM"))
        if time.monotonic() > self._deadline:
            return End("Stopped", "sweep_stopped", "the tuning job ran longer than MaxRuntimeInSeconds")
        over = not self.running and (self._exhausted or self.launched >= self.max_jobs)
        if failure := self.completion.failure_reason(over):
            return End("Failed", "sweep_stopped", failure)
        reason = self.completion.reached_criterion()
        if over and not reason:
            reason = f"all {self.launched} training jobs have ended"
            if self.launched < self.max_jobs:
                reason = f"every point of the space was tried after {self.launched} of {self.max_jobs} jobs"
        return End("Completed", "sweep_completed", reason) if reason else None

    def _launch(self) -> None:
        """Starts trials until a limit is reached or the space is exhausted."""
        while len(self.running) < self.max_parallel and self.launched < self.max_jobs and not self._exhausted:
            proposal = self.search.ask()
            if proposal is None:
                self._exhausted = True
                return
            self.launched += 1
            slot = min(set(range(self.max_parallel)) - {job.slot for job in self.running})
            folder, supervisor = start_trial(
                self.folder, self.request, self.state, number=self.launched, slot=slot, point=proposal.point
            )
            self.running.append(Running(folder, supervisor, slot, proposal.number, LineTail(folder / METRICS)))
            print(f"{folder.name}: {proposal.point}", flush=True)

    def _collect(self) -> None:
        """Reports new metrics to the search, stops the trials that it prunes and removes the ended ones."""
        for job in list(self.running):
            ended = job.supervisor.poll() is not None
            for metric in parse_metrics(job.metrics.read()):
                if metric["name"] == self.objective["MetricName"]:
                    reason = self.search.report(job.number, metric["value"])
                    if reason and not job.stopping and not ended:
                        job.stopping = True
                        request_stop(job.folder, "early_stopping", reason)
            state = read_state(job.folder) if ended else {}
            if state.get("status") in FINAL:
                self._remove(job, state)

    def _remove(self, job: Running, state: Json) -> None:
        value = final_objective(state, self.objective)
        self.search.tell(job.number, value, state["status"] == "Completed")
        self.completion.add(state["status"], value)
        self.running.remove(job)
        self._save(not_improving=self.completion.not_improving, converged_at=self.completion.converged_at)
        print(f"{job.folder.name}: {state['status']}, {value} {state.get('failure', '')}", flush=True)


def past_jobs(folder: Path, request: Json, objective: Json) -> list[PastJob]:
    """Returns the trials of a warm start's parents and of their parents."""
    trials = [trial for parent in ancestors(folder.parent, request) for trial in trial_folders(parent)]
    return [_past_job(trial, read_state(trial), objective) for trial in trials]


def _past_job(trial: Path, state: Json, objective: Json) -> PastJob:
    from launch.local.tuning.search import PastJob

    metrics = parse_metrics(LineTail(trial / METRICS).read())
    return PastJob(
        state.get("tuned", {}),
        final_objective(state, objective),
        interrupted=state.get("status") not in FINAL or state.get("stopped_by") in INTERRUPTED,
        curve=tuple(metric["value"] for metric in metrics if metric["name"] == objective["MetricName"]),
        completed=state.get("status") == "Completed",
    )


if __name__ == "__main__":
    supervise(Tuner)
