"""Progress of a running sweep or training: log lines and a live view."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from omegaconf import DictConfig
from rich.console import Console, RenderableType
from rich.text import Text

from dogbreed.callbacks.metric_line import read_metrics
from launch.backends import Backend
from launch.backends.base import LogTail
from launch.runs.polling import RetryingPoller
from launch.runs.requests import stop
from launch.runs.results import Sweep, Trial, billable_seconds, read_sweep
from launch.runs.summary import finish_sweep, finish_training
from launch.spec.contract import Json
from launch.spec.naming import TERMINAL, short_name
from launch.views.live import EpochProgress, live_view, trial_line, trial_status_line
from launch.views.text import duration


class LogReader:
    """Reads the logs of several jobs; if they cannot be read, prints that once and returns no lines from then on."""

    def __init__(self, backend: Backend, poller: RetryingPoller, out: Console) -> None:
        self._backend, self._poller, self._out = backend, poller, out
        self._logs: dict[str, LogTail] = {}
        self._unreadable = False

    def read(self, name: str) -> list[str]:
        """Returns the lines of job `name` since the last call."""
        if self._unreadable:
            return []
        try:
            if name not in self._logs:
                self._logs[name] = self._backend.logs(name)
            return self._poller(self._logs[name].read) or []
        except (ClientError, BotoCoreError) as error:
            self._unreadable = True
            self._out.print(f"logs cannot be read, so no log lines are shown: {error}", soft_wrap=True)
            return []


class SweepRun:
    """Follows a sweep.

    Prints one line per trial that ends; if billed, also one per trial that starts; with `logs=true` all log lines.

    Attributes:
        sweep: The sweep as it was read last; None before.
    """

    kept_message = "finished trials are kept"

    def __init__(self, client: Any, name: str, cfg: DictConfig, backend: Backend, out: Console) -> None:
        self.name = name
        self.sweep: Sweep | None = None
        self._client, self._cfg, self._backend, self._out = client, cfg, backend, out
        self._poller = RetryingPoller(out)
        self._logs = LogReader(backend, self._poller, out)
        self._reported: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._status: dict[str, str] = {}
        self._epochs: dict[str, EpochProgress] = {}

    def poll(self) -> bool:
        """Reads the sweep and its trials, and prints what is new; returns whether it has ended."""
        self.sweep = self._poller(lambda: read_sweep(self._client, self.name)) or self.sweep
        if self.sweep is None:
            return False
        if self._changed(self.name, self.sweep.status) and self.sweep.status == "Stopping":
            self._out.print(f"sweep {self.name}: Stopping", soft_wrap=True)
        own = self.sweep.own_trials
        self._reported |= {trial.name for trial in self.sweep.trials if trial not in own}
        for trial in own:
            if trial.name not in self._reported:
                self._report(trial, self.sweep)
        return self.ended

    @property
    def ended(self) -> bool:
        """Whether its status was final when it was polled last."""
        return self.sweep is not None and self.sweep.ended

    def render(self) -> RenderableType:
        """Returns the live view of the sweep."""
        if self.sweep is None:
            return ""
        return live_view(self.sweep, self._epochs, with_hours=self._backend.billed)

    def stop(self) -> None:
        """Requests that the sweep stops."""
        self._status[self.name] = "Stopping"  # already printed
        stop(self._client, "HyperParameterTuningJob", self.name)

    def finish(self) -> int:
        """Writes the result files and prints the outcome; returns 0, or 1 if no trial has a result."""
        return finish_sweep(self._client, self._cfg, self._backend, self.name, self._out)

    def resume_hint(self) -> str:
        """Returns how to resume the sweep."""
        return f"stopped; resume with: {self._backend.command_line('tune', f'resume={self.name}')}"

    def _report(self, trial: Trial, sweep: Sweep) -> None:
        ended = trial.status in TERMINAL
        if self._changed(trial.name, trial.status) and self._backend.billed and not ended:
            self._out.print(trial_status_line(trial), soft_wrap=True)
        if self._cfg.logs or (self._out.is_terminal and not ended):
            self._read_log(trial, sweep.metric)
        if ended:
            self._reported.add(trial.name)
            self._epochs.pop(trial.name, None)
            self._out.print(trial_line(trial, len(self._reported), sweep, self._reasons), soft_wrap=True)

    def _changed(self, name: str, status: str) -> bool:
        before, self._status[name] = self._status.get(name), status
        return before != status

    def _read_log(self, trial: Trial, metric: str) -> None:
        for line in self._logs.read(trial.name):
            if self._cfg.logs:
                self._out.print(f"{short_name(trial.name):>7} | {line}", soft_wrap=True)
            metrics = read_metrics(line)
            if metric in metrics:  # at its end a trial prints its best epoch again
                before = self._epochs.get(trial.name)
                epoch = max(int(metrics["epoch"]) + 1, before.epoch if before else 0)
                self._epochs[trial.name] = EpochProgress(epoch, metrics[metric])


class TrainingRun:
    """Follows a training job: prints its log and its status changes. Arguments as for `SweepRun`.

    Attributes:
        job: The API's description as it was read last; empty before.
    """

    kept_message = "its last checkpoint is kept"

    def __init__(self, client: Any, name: str, cfg: DictConfig, backend: Backend, out: Console) -> None:
        self.name = name
        self.job: Json = {}
        self._client, self._cfg, self._backend, self._out = client, cfg, backend, out
        self._poller = RetryingPoller(out)
        self._logs = LogReader(backend, self._poller, out)
        self._reported = 0

    def poll(self) -> bool:
        """Reads the job and then its log, so that no line is lost at its end, and prints what is new."""
        self.job = self._poller(lambda: self._client.describe_training_job(TrainingJobName=self.name)) or self.job
        for line in self._logs.read(self.name):
            self._out.print(line, soft_wrap=True)
        transitions = self.job.get("SecondaryStatusTransitions", [])
        for entry in transitions[self._reported :]:
            self._out.print(f"[{entry['Status']}] {entry.get('StatusMessage', '')}".rstrip(), soft_wrap=True)
        self._reported = len(transitions)
        return self.ended

    @property
    def ended(self) -> bool:
        """Whether its status was final when it was polled last."""
        return self.job.get("TrainingJobStatus") in TERMINAL

    def render(self) -> RenderableType:
        """Returns the phase of the job, its elapsed time, and the instance-hours so far if it is billed."""
        if not self.job:
            return ""
        elapsed_s = (datetime.now(timezone.utc) - self.job["CreationTime"]).total_seconds()
        billable_s = billable_seconds(self.job, so_far=True) or 0.0
        hours = f", {billable_s / 3600:.2f} instance-hours so far" if self._backend.billed else ""
        return Text(f"{self.job.get('SecondaryStatus', '')}, {duration(elapsed_s)}{hours}")

    def stop(self) -> None:
        """Requests that the job stops."""
        stop(self._client, "TrainingJob", self.name)

    def finish(self) -> int:
        """Prints the outcome; returns 0, or 1 if the job did not complete."""
        return finish_training(self.job, self._cfg, self._backend, self._out)

    def resume_hint(self) -> str:
        """Returns nothing: a training job is not resumed by name."""
        return ""
