"""A sweep or a training while it runs: what is told of it, a line at a time, and its live image on a terminal."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from botocore.exceptions import ClientError
from omegaconf import DictConfig
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from dogbreed.callbacks.metric_line import read_metrics
from launch.backends import Backend, open_backend
from launch.backends.base import LogTail
from launch.runs.polling import Patient
from launch.runs.results import Sweep, Trial, billable_seconds, read_sweep
from launch.spec.naming import TERMINAL, short_name
from launch.views.tables import brief_values, decimal, duration, progress_bar, trial_line, trial_status_line


class Tails:
    """The logs of jobs, read on at each look; where they may not be read that is said once, and they stay empty."""

    def __init__(self, backend: Backend, ask: Patient, out: Console) -> None:
        self._backend, self._ask, self._out = backend, ask, out
        self._logs: dict[str, LogTail] = {}
        self._refused = False

    def read(self, name: str) -> list[str]:
        """Returns the lines that have come since the last call for job `name`."""
        if self._refused:
            return []
        try:
            if name not in self._logs:
                self._logs[name] = self._backend.logs(name)
            return self._ask(self._logs[name].read) or []
        except ClientError as error:
            self._refused = True
            self._out.print(f"no lines of the logs, they cannot be read: {error}", soft_wrap=True)
            return []


class SweepWatch:
    """Sweep `name`: a line for each trial that ends, at AWS also for each that starts; with `logs` all they print.

    Args:
        client: boto3's sagemaker client.
        name: of the sweep.
        cfg: the config at hand; its `backend` and `logs` are read.
        out: where the lines go.

    Attributes:
        sweep: as it was seen last.
    """

    kept = "finished trials are kept"

    def __init__(self, client: Any, name: str, cfg: DictConfig, out: Console) -> None:
        self.sweep: Sweep | None = None
        self._client, self._name, self._out = client, name, out
        self._at_aws, self._logs = open_backend(cfg).billed, bool(cfg.logs)
        self._ask = Patient(out)
        self._tails = Tails(open_backend(cfg), self._ask, out)
        self._told: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._status: dict[str, str] = {}
        self._last_line: dict[str, str] = {}
        self._so_far: dict[str, str] = {}

    def look(self) -> bool:
        """Asks for the sweep and its trials, and tells what is new."""
        self.sweep = self._ask(lambda: read_sweep(self._client, self._name)) or self.sweep
        if self.sweep is None:
            return False
        if self._changed(self._name, self.sweep.status) and self.sweep.status == "Stopping":
            self._out.print(f"sweep {self._name}: Stopping", soft_wrap=True)
        own = self.sweep.own_trials
        self._told |= {trial.name for trial in self.sweep.trials if trial not in own}
        for trial in own:
            if trial.name not in self._told:
                self._tell(trial, self.sweep)
        return self.ended

    @property
    def ended(self) -> bool:
        """Whether nothing of it will change any more, as far as it was seen."""
        return self.sweep is not None and self.sweep.ended

    def _tell(self, trial: Trial, sweep: Sweep) -> None:
        ended = trial.status in TERMINAL
        if self._changed(trial.name, trial.status) and self._at_aws and not ended:
            self._out.print(trial_status_line(trial), soft_wrap=True)
        if self._logs or (self._out.is_terminal and not ended):
            self._read(trial, sweep.metric)
        if ended:
            self._told.add(trial.name)
            self._out.print(trial_line(trial, len(self._told), sweep, self._reasons), soft_wrap=True)

    def _changed(self, name: str, status: str) -> bool:
        before, self._status[name] = self._status.get(name), status
        return before != status

    def _read(self, trial: Trial, metric: str) -> None:
        for line in self._tails.read(trial.name):
            if self._logs:
                self._out.print(f"{short_name(trial.name):>7} | {line}", soft_wrap=True)
            self._last_line[trial.name] = line
            found = read_metrics(line)
            if metric in found:
                self._so_far[trial.name] = f"epoch {found['epoch']:.0f}  {metric} {decimal(found[metric])}"

    def image(self) -> RenderableType:
        """Returns a bar over all, and a line for each running trial: its values, objective, time and last line."""
        if self.sweep is None:
            return ""
        columns = [Column(no_wrap=True) for _ in range(4)]
        grid = Table.grid(*columns, Column(no_wrap=True, ratio=1, style="dim"), padding=(0, 2), expand=True)
        for trial in self.sweep.own_trials:
            if trial.status not in TERMINAL:
                values, last = Text(brief_values(trial)), Text(self._last_line.get(trial.name, ""))
                so_far = self._so_far.get(trial.name, "")
                grid.add_row(f"{short_name(trial.name):>7}", values, so_far, duration(trial.seconds), last)
        return Group(progress_bar(self.sweep, hours=self._at_aws), grid)

    def stop(self) -> None:
        """Asks for the end of the sweep."""
        self._status[self._name] = "Stopping"  # whoever asked knows
        self._client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=self._name)


class TrainingWatch:
    """Training job `name`: what it is doing, and its log. Arguments as those of `SweepWatch`.

    Attributes:
        job: as it was described last; empty before.
    """

    kept = "its last checkpoint is kept"

    def __init__(self, client: Any, name: str, cfg: DictConfig, out: Console) -> None:
        self.job: dict[str, Any] = {}
        self._client, self._name, self._out = client, name, out
        self._at_aws = open_backend(cfg).billed
        self._ask = Patient(out)
        self._tails = Tails(open_backend(cfg), self._ask, out)
        self._told = 0

    def look(self) -> bool:
        """Asks for the job, then for its log, so that the last lines of an ended one are there; tells what is new."""
        self.job = self._ask(lambda: self._client.describe_training_job(TrainingJobName=self._name)) or self.job
        for line in self._tails.read(self._name):
            self._out.print(line, soft_wrap=True)
        transitions = self.job.get("SecondaryStatusTransitions", [])
        for entry in transitions[self._told :]:
            said = f"[{entry['Status']}] {entry.get('StatusMessage', '')}".rstrip()
            self._out.print(said, soft_wrap=True)
        self._told = len(transitions)
        return self.ended

    @property
    def ended(self) -> bool:
        """Whether nothing of it will change any more, as far as it was seen."""
        return self.job.get("TrainingJobStatus") in TERMINAL

    def image(self) -> RenderableType:
        """Returns what the job is doing, since when, and at AWS the instance-hours so far."""
        if not self.job:
            return ""
        elapsed_s = (datetime.now(timezone.utc) - self.job["CreationTime"]).total_seconds()
        billable_s = billable_seconds(self.job, so_far=True) or 0.0
        hours = f", {billable_s / 3600:.2f} instance-hours so far" if self._at_aws else ""
        return Text(f"{self.job.get('SecondaryStatus', '')}, {duration(elapsed_s)}{hours}")

    def stop(self) -> None:
        """Asks for the end of the job."""
        self._client.stop_training_job(TrainingJobName=self._name)
