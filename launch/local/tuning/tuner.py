"""The supervisor of one tuning job: asks the search for points, runs them as training jobs, and keeps the limits.

    python -m launch.local.tuning.tuner FOLDER LOCK

It alone imports Optuna. Everything it knows lies in files, so any other process can look, stop the job or resume it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.local.job_state import FINAL, ask_to_stop, look
from launch.local.job_store import METRICS, STOP, read_json
from launch.local.jobs.metrics import LineTail, parse_metrics
from launch.local.jobs.process import WarmServer
from launch.local.jobs.supervisor import Supervisor, supervise
from launch.local.tuning.completion import Completion
from launch.local.tuning.trials import INTERRUPTED, ancestors, final_objective, start_trial, trial_folders

if TYPE_CHECKING:
    from launch.local.tuning.search import PastJob

POLL_S = 0.03
Json = dict[str, Any]


@dataclass
class Running:
    """A training job under way."""

    folder: Path
    supervisor: int
    """Its pid."""
    number: int
    """By which the search knows it."""
    metrics: LineTail
    stopping: bool = False
    ended: bool = False


class End(NamedTuple):
    """How a tuning job ends."""

    status: str
    kind: str
    """Of the stop for the jobs still running."""
    because: str


class Tuner(Supervisor):
    """The tuning job in `folder`, whose lock this process holds, and perhaps the `pipe` of its warm server."""

    def __init__(self, folder: Path, pipe: int | None = None):
        super().__init__(folder)
        definition = self.request["TrainingJobDefinition"]
        if pipe is None:  # its imports take longest, so they begin before this process's own
            self.warm = WarmServer.start(self.state["command"], definition.get("Environment", {}))
        else:
            self.warm = WarmServer(self.state["warm"], pipe)
        from launch.local.tuning.search import Search

        config = self.request["HyperParameterTuningJobConfig"]
        self.objective: Json = config["HyperParameterTuningJobObjective"]
        static = definition.get("StaticHyperParameters", {})
        warm_start = self.request.get("WarmStartConfig", {}).get("WarmStartType")
        past = past_jobs(folder, self.request, self.objective)
        self.search = Search(config, static, past, same_data=warm_start == "IdenticalDataAndAlgorithm")
        limits = config["ResourceLimits"]
        self.max_jobs: float = limits.get("MaxNumberOfTrainingJobs", self.search.space.size)
        self.max_parallel: int = limits["MaxParallelTrainingJobs"]
        self.completion = Completion(config)
        self.running: list[Running] = []
        self.launched = 0
        self._exhausted = False
        since_s = time.time() - self.state["created"]
        self._deadline = time.monotonic() - since_s + limits.get("MaxRuntimeInSeconds", float("inf"))

    def run(self) -> None:
        """Runs the tuning job to its end."""
        self._listen()
        self._save(warm=self.warm.address)
        try:
            while (end := self._end()) is None:
                self._launch()
                time.sleep(POLL_S)
                self._collect()
            for job in self.running:
                ask_to_stop(job.folder, end.kind, f"Its tuning job ends: {end.because}")
            while self.running:
                time.sleep(POLL_S)
                self._collect()
        except OSError as error:  # a full disk; the jobs see their owner gone and stop
            end = End("Failed", "sweep_stopped", f"InternalServerError: {error}")
        if end.status == "Failed":
            self.state["failure"] = end.because
        self.warm.close()
        self._save(status=end.status, ended=time.time(), note=end.because)
        print(f"{end.status}: {end.because}", flush=True)

    def _end(self) -> End | None:
        """Returns how the tuning job ends, None while it goes on."""
        self._check_folder()
        asked = read_json(self.folder / STOP)
        if asked or self._told_to_end:
            return End("Stopped", "sweep_stopped", asked.get("because", "its supervisor was told to end"))
        if time.monotonic() > self._deadline:
            return End("Stopped", "sweep_stopped", "MaxRuntimeInSeconds of the tuning job is over")
        over = not self.running and (self._exhausted or self.launched >= self.max_jobs)
        if hopeless := self.completion.hopeless(over):
            return End("Failed", "sweep_stopped", hopeless)
        reached = self.completion.reached()
        if over and not reached:
            reached = f"all {self.launched} training jobs have ended"
            if self.launched < self.max_jobs:
                reached = f"every point of the space was tried after {self.launched} of {self.max_jobs} jobs"
        return End("Completed", "sweep_completed", reached) if reached else None

    def _launch(self) -> None:
        """Starts training jobs until the limits are reached or the space is exhausted."""
        while len(self.running) < self.max_parallel and self.launched < self.max_jobs and not self._exhausted:
            proposal = self.search.ask()
            if proposal is None:
                self._exhausted = True
                return
            self.launched += 1
            folder, supervisor = start_trial(self.folder, self.request, self.launched, proposal.point, self.state)
            self.running.append(Running(folder, supervisor, proposal.number, LineTail(folder / METRICS)))
            print(f"{folder.name}: {proposal.point}", flush=True)

    def _collect(self) -> None:
        """Hands what came from the running jobs to the search, stops the hopeless ones, takes in the ended ones."""
        for job in list(self.running):
            job.ended = job.ended or os.waitpid(job.supervisor, os.WNOHANG)[0] != 0
            for metric in parse_metrics(job.metrics.read()):
                if metric["name"] == self.objective["MetricName"]:
                    because = self.search.report(job.number, metric["value"])
                    if because and not job.stopping and not job.ended:
                        job.stopping = True
                        ask_to_stop(job.folder, "early_stopping", because)
            state = look(job.folder) if job.ended else {}
            if state.get("status") in FINAL:
                self._take_in(job, state)

    def _take_in(self, job: Running, state: Json) -> None:
        value = final_objective(state, self.objective)
        self.search.tell(job.number, value, state["status"] == "Completed")
        self.completion.add(state["status"], value)
        self.running.remove(job)
        self._save(not_improving=self.completion.not_improving, converged_at=self.completion.converged_at)
        print(f"{job.folder.name}: {state['status']}, {value} {state.get('failure', '')}", flush=True)


def past_jobs(folder: Path, request: Json, objective: Json) -> list[PastJob]:
    """Returns the training jobs of the warm start's parents and of their parents."""
    trials = [trial for parent in ancestors(folder.parent, request) for trial in trial_folders(parent)]
    return [_past_job(trial, look(trial), objective) for trial in trials]


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
