"""LocalSageMaker: SageMaker's operations for jobs and endpoints, answered from folders on this machine.

One method for each operation, a request dict in, a response dict out, as they are on the wire. `wire.local_client`
puts it behind a boto3 client.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dogbreed.errors import UserError
from launch.local.api import responses as answers
from launch.local.api.errors import ServiceError, invalid
from launch.local.api.pagination import page, select
from launch.local.api.unsupported import refuse_training, refuse_tuning
from launch.local.hosting.endpoints import ENDPOINT, Hosting
from launch.local.hosting.endpoints import OPERATIONS as HOSTING
from launch.local.job_state import FINAL, TRAINING, TUNING, ask_to_stop, is_job, is_tuning, job_arn, look, new_state
from launch.local.job_store import REQUEST, TAGS, TUNER_LOG, make_folder, read_json, start_supervisor, write_json
from launch.local.jobs.container import LOCAL_BUCKET
from launch.local.jobs.process import take_ahead
from launch.local.tuning.trials import (
    ancestors,
    final_objective,
    start_training,
    training_folder,
    trial_folders,
    trial_states,
)
from launch.spec.limits import check_request

STOP_GRACE_S = 120.0
"""From SIGTERM to SIGKILL, as SageMaker has it."""

SERVE = (sys.executable, "-m", "dogbreed.serving.server")
"""What an endpoint runs: it serves the folder that --model-dir names."""

Json = dict[str, Any]


class LocalSageMaker:
    """Training and tuning jobs and endpoints as processes, their state as files.

    Args:
        root: the folder that holds a folder for each job; `s3://local` in requests.
        command: what a training job runs, under the container contract.
        stop_grace_s: seconds from SIGTERM to SIGKILL for jobs and endpoints made by this service.
        serve: what an endpoint runs: it serves the folder that --model-dir names.
    """

    def __init__(
        self,
        root: Path,
        command: Sequence[str] = (sys.executable, "-m", "launch.container.entry"),
        stop_grace_s: float = STOP_GRACE_S,
        serve: Sequence[str] = SERVE,
    ):
        self.root = root.absolute()
        self.hosting = Hosting(self.root, serve, stop_grace_s)
        self.command = list(command)
        self.stop_grace_s = stop_grace_s
        self._supervisors: list[subprocess.Popen[bytes]] = []
        self._tagging = threading.Lock()

    def answer(self, operation: str, request: Json) -> Json:
        """Returns the response of an API operation, given its name and request.

        Raises:
            ServiceError: the API's own errors.
            UserError: the root folder cannot be written.
        """
        if operation not in _OPERATIONS | HOSTING:
            names = ", ".join(sorted(_OPERATIONS | HOSTING))
            raise ServiceError("ValidationException", f"{operation} is not there on this machine; there are {names}")
        _raise(check_request(operation, request))
        if operation in HOSTING:
            try:
                return HOSTING[operation](self.hosting, request)
            except OSError as error:
                raise UserError(f"{self.hosting.folder} cannot be written: {error.strerror}") from None
        return _OPERATIONS[operation](self, request)

    def create_training_job(self, request: Json) -> Json:
        """Starts a training job."""
        _raise(refuse_training(request, self.root))
        name = request["TrainingJobName"]
        state = new_state(TRAINING, name, self.command, self.stop_grace_s)
        self._make(name, lambda folder: start_training(folder, request, state))
        return {"TrainingJobArn": state["arn"]}

    def create_hyper_parameter_tuning_job(self, request: Json) -> Json:
        """Starts a tuning job."""
        _raise(refuse_tuning(request, self.root))
        name = request["HyperParameterTuningJobName"]
        warm = take_ahead(self.command, request.get("TrainingJobDefinition", {}).get("Environment", {}))
        state = new_state(TUNING, name, self.command, self.stop_grace_s, warm=warm.address)

        def start(folder: Path) -> subprocess.Popen[bytes]:
            lock = make_folder(folder, request, state, TUNER_LOG)
            pipes = [] if warm.pipe is None else [warm.pipe]
            return start_supervisor("launch.local.tuning.tuner", folder, lock, TUNER_LOG, *pipes)

        try:
            self._make(name, start)
        finally:
            warm.close()
        return {"HyperParameterTuningJobArn": state["arn"]}

    def describe_training_job(self, request: Json) -> Json:
        """Returns what is known of a training job."""
        folder = self._training(request["TrainingJobName"])
        uri = f"{LOCAL_BUCKET}/{folder.relative_to(self.root).as_posix()}/output/model.tar.gz"
        return answers.training_description(look(folder), read_json(folder / REQUEST), uri)

    def describe_hyper_parameter_tuning_job(self, request: Json) -> Json:
        """Returns what is known of a tuning job."""
        folder = self._tuning(request["HyperParameterTuningJobName"])
        made_by = read_json(folder / REQUEST)
        state = look(folder)
        parents = [trial for parent in ancestors(self.root, made_by) for trial in trial_states(parent)]
        return answers.tuning_description(state, made_by, trial_states(folder), parents)

    def list_training_jobs(self, request: Json) -> Json:
        """Returns the training jobs, those of tuning jobs among them."""
        folders = self._jobs()
        alone = [folder for folder in folders if not is_tuning(folder)]
        trials = [trial for folder in folders if is_tuning(folder) for trial in trial_folders(folder)]
        states = [look(folder) for folder in [*alone, *trials]]
        found = select(states, request, "CreationTime")
        entries, more = page([answers.training_summary(state) for state in found], request)
        return {"TrainingJobSummaries": entries, **more}

    def list_hyper_parameter_tuning_jobs(self, request: Json) -> Json:
        """Returns the tuning jobs."""
        folders = {folder.name: folder for folder in self._jobs() if is_tuning(folder)}
        states = [look(folder) for folder in folders.values()]
        found, more = page(select(states, request, "Name"), request)
        entries = []
        for state in found:
            folder = folders[state["name"]]
            entries.append(answers.tuning_summary(state, read_json(folder / REQUEST), trial_states(folder)))
        return {"HyperParameterTuningJobSummaries": entries, **more}

    def list_training_jobs_for_hyper_parameter_tuning_job(self, request: Json) -> Json:
        """Returns the training jobs of a tuning job."""
        folder = self._tuning(request["HyperParameterTuningJobName"])
        config = read_json(folder / REQUEST).get("HyperParameterTuningJobConfig", {})
        objective = config.get("HyperParameterTuningJobObjective", {"Type": "Maximize", "MetricName": ""})
        states = trial_states(folder)
        for state in states:
            state["objective"] = final_objective(state, objective)
        if request.get("SortBy") == "FinalObjectiveMetricValue":  # AWS leaves out those that have none
            states = [state for state in states if state["objective"] is not None]
        found = select(states, request, "Name")
        entries, more = page([answers.trial_summary(state, objective) for state in found], request)
        return {"TrainingJobSummaries": entries, **more}

    def stop_training_job(self, request: Json) -> Json:
        """Asks a training job to stop: SIGTERM, and SIGKILL after the grace."""
        return self._stop(self._training(request["TrainingJobName"]), "training job")

    def stop_hyper_parameter_tuning_job(self, request: Json) -> Json:
        """Asks a tuning job to stop its training jobs and end; what they found is kept."""
        return self._stop(self._tuning(request["HyperParameterTuningJobName"]), "hyperparameter tuning job")

    def add_tags(self, request: Json) -> Json:
        """Adds tags to a job or an endpoint."""
        folder = self._by_arn(request["ResourceArn"])
        with self._tagging:  # the server over HTTP has a thread for each request
            tags = {tag["Key"]: tag["Value"] for tag in self._tags(folder) + request["Tags"]}
            write_json(folder / TAGS, {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]})
        return {"Tags": self._tags(folder)}

    def list_tags(self, request: Json) -> Json:
        """Returns the tags of a job or an endpoint."""
        entries, more = page(self._tags(self._by_arn(request["ResourceArn"])), request, default=50)
        return {"Tags": entries, **more}

    def _make(self, name: str, start: Callable[[Path], subprocess.Popen[bytes]]) -> None:
        self._supervisors = [process for process in self._supervisors if process.poll() is None]
        try:
            self._supervisors.append(start(self.root / name))
        except FileExistsError:
            raise ServiceError("ResourceInUse", f"{self.root / name} exists already; choose another name") from None
        except OSError as error:
            raise UserError(
                f"the folder {self.root / name} cannot be written: {error.strerror}; "
                "choose another output folder or free this one"
            ) from None

    def _jobs(self) -> list[Path]:
        """Returns the folders of the jobs directly beneath the root."""
        if not self.root.is_dir():
            return []
        return sorted(folder for folder in self.root.iterdir() if folder.is_dir() and is_job(folder))

    def _training(self, name: str) -> Path:
        folder = training_folder(self.root, name)
        if not is_job(folder) or is_tuning(folder):
            raise ServiceError("ResourceNotFound", f"there is no training job {name!r} under {self.root}")
        return folder

    def _tuning(self, name: str) -> Path:
        folder = self.root / name
        if not is_job(folder) or not is_tuning(folder):
            raise ServiceError("ResourceNotFound", f"there is no hyperparameter tuning job {name!r} under {self.root}")
        return folder

    def _by_arn(self, arn: str) -> Path:
        kind, _, name = arn.rpartition(":")[2].partition("/")
        if arn == job_arn(TUNING, name):
            return self._tuning(name)
        if arn == job_arn(TRAINING, name):
            return self._training(name)
        if arn == job_arn(ENDPOINT, name):
            return self.hosting.look(name)[0]
        raise ServiceError("ResourceNotFound", f"there is no {kind or arn} on this machine")

    def _tags(self, folder: Path) -> list[Json]:
        added = read_json(folder / TAGS)
        tags: list[Json] = added["Tags"] if added else read_json(folder / REQUEST).get("Tags", [])
        return tags

    def _stop(self, folder: Path, kind: str) -> Json:
        status = look(folder)["status"]
        if status in FINAL:
            raise invalid(f"the {kind} {folder.name} is in status {status}; only a running one can be stopped")
        ask_to_stop(folder, "user", "stopped by request")
        return {}


_OPERATIONS: dict[str, Callable[[LocalSageMaker, Json], Json]] = {
    "CreateTrainingJob": LocalSageMaker.create_training_job,
    "CreateHyperParameterTuningJob": LocalSageMaker.create_hyper_parameter_tuning_job,
    "DescribeTrainingJob": LocalSageMaker.describe_training_job,
    "DescribeHyperParameterTuningJob": LocalSageMaker.describe_hyper_parameter_tuning_job,
    "ListTrainingJobs": LocalSageMaker.list_training_jobs,
    "ListHyperParameterTuningJobs": LocalSageMaker.list_hyper_parameter_tuning_jobs,
    "ListTrainingJobsForHyperParameterTuningJob": LocalSageMaker.list_training_jobs_for_hyper_parameter_tuning_job,
    "StopTrainingJob": LocalSageMaker.stop_training_job,
    "StopHyperParameterTuningJob": LocalSageMaker.stop_hyper_parameter_tuning_job,
    "AddTags": LocalSageMaker.add_tags,
    "ListTags": LocalSageMaker.list_tags,
}


def _raise(problems: Iterable[str]) -> None:
    """Raises AWS's answer to a request it refuses, where there are problems."""
    found = list(problems)
    if found:
        raise invalid(*found)
