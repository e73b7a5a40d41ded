"""LocalSageMaker: SageMaker's operations for jobs and endpoints, answered from folders on this machine.

Each operation is a method that takes the request as a dict and returns the response as a dict, as on the wire.
`boto_client.local_client` puts them behind a boto3 client, `http` behind an HTTP server.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dogbreed.errors import UserError
from launch.local.api import responses
from launch.local.api.endpoint_operations import OPERATIONS as ENDPOINT_OPERATIONS
from launch.local.api.endpoint_operations import EndpointOperations
from launch.local.api.errors import ServiceError, invalid
from launch.local.api.pagination import page, select
from launch.local.api.unsupported import training_problems, tuning_problems
from launch.local.hosting.endpoints import ENDPOINT
from launch.local.job_store import (
    FINAL,
    REQUEST,
    TAGS,
    TRAINING,
    TUNER_LOG,
    TUNING,
    Json,
    create_folder,
    is_job,
    is_tuning,
    job_arn,
    new_state,
    read_json,
    read_request,
    read_state,
    request_stop,
    write_json,
)
from launch.local.jobs.container import LOCAL_BUCKET
from launch.local.jobs.process import start_supervisor
from launch.local.tuning.objective import final_objective
from launch.local.tuning.trials import ancestors, start_training, training_folder, trial_folders, trial_states
from launch.spec.limits import check_request

STOP_GRACE_S = 120.0
"""Seconds between SIGTERM and SIGKILL in SageMaker."""
TRAIN = (sys.executable, "-m", "launch.container.entry")
"""Command of a training job."""
SERVE = (sys.executable, "-m", "dogbreed.serving.server")
"""Command of an endpoint, without its options."""


class LocalSageMaker:
    """Training jobs, tuning jobs and endpoints as processes, with their state in files.

    Args:
        root: The folder that contains a folder for each job; `s3://local` in requests.
        command: Command of a training job; it runs under the container contract.
        stop_grace_s: Seconds between SIGTERM and SIGKILL for jobs and endpoints.
        serve: Command of an endpoint; it serves the model folder given by --model-dir.
    """

    def __init__(
        self,
        root: Path,
        command: Sequence[str] = TRAIN,
        stop_grace_s: float = STOP_GRACE_S,
        serve: Sequence[str] = SERVE,
    ):
        self.root = root.absolute()
        self.endpoints = EndpointOperations(self.root, serve, stop_grace_s)
        self.command = list(command)
        self.stop_grace_s = stop_grace_s
        self._supervisors: list[subprocess.Popen[bytes]] = []
        self._tag_lock = threading.Lock()

    def answer(self, operation: str, request: Json) -> Json:
        """Returns the response of an API operation.

        Raises:
            ServiceError: An error of the API.
            UserError: The root folder cannot be written.
        """
        if operation not in _OPERATIONS | ENDPOINT_OPERATIONS:
            names = ", ".join(sorted(_OPERATIONS | ENDPOINT_OPERATIONS))
            raise ServiceError("ValidationException", f"{operation} is not supported on this machine; choose {names}")
        _raise_problems(check_request(operation, request))
        if operation in ENDPOINT_OPERATIONS:
            return self.endpoints.answer(operation, request)
        return _OPERATIONS[operation](self, request)

    def _create_training_job(self, request: Json) -> Json:
        _raise_problems(training_problems(request, self.root))
        name = request["TrainingJobName"]
        state = new_state(TRAINING, name, self.command, self.stop_grace_s)
        self._create(name, lambda folder: start_training(folder, request, state))
        return {"TrainingJobArn": state["arn"]}

    def _create_hyper_parameter_tuning_job(self, request: Json) -> Json:
        _raise_problems(tuning_problems(request, self.root))
        name = request["HyperParameterTuningJobName"]
        state = new_state(TUNING, name, self.command, self.stop_grace_s)

        def start(folder: Path) -> subprocess.Popen[bytes]:
            lock = create_folder(folder, request, state, TUNER_LOG)
            return start_supervisor("launch.local.tuning.tuner", folder, lock, TUNER_LOG)

        self._create(name, start)
        return {"HyperParameterTuningJobArn": state["arn"]}

    def _describe_training_job(self, request: Json) -> Json:
        folder = self._training(request["TrainingJobName"])
        uri = f"{LOCAL_BUCKET}/{folder.relative_to(self.root).as_posix()}/output/model.tar.gz"
        return responses.training_description(read_state(folder), read_request(folder), uri)

    def _describe_hyper_parameter_tuning_job(self, request: Json) -> Json:
        folder = self._tuning(request["HyperParameterTuningJobName"])
        created_by = read_request(folder)
        state = read_state(folder)
        parents = [trial for parent in ancestors(self.root, created_by) for trial in trial_states(parent)]
        return responses.tuning_description(state, created_by, trial_states(folder), parents)

    def _list_training_jobs(self, request: Json) -> Json:
        folders = self._jobs()
        trials = [trial for folder in folders if is_tuning(folder) for trial in trial_folders(folder)]
        states = [read_state(folder) for folder in [*folders, *trials] if not is_tuning(folder)]
        selected = select(states, request, "CreationTime")
        entries, more = page([responses.training_summary(state) for state in selected], request)
        return {"TrainingJobSummaries": entries, **more}

    def _list_hyper_parameter_tuning_jobs(self, request: Json) -> Json:
        folders = {folder.name: folder for folder in self._jobs() if is_tuning(folder)}
        states = [read_state(folder) for folder in folders.values()]
        selected, more = page(select(states, request, "Name"), request)
        entries = []
        for state in selected:
            folder = folders[state["name"]]
            entries.append(responses.tuning_summary(state, read_request(folder), trial_states(folder)))
        return {"HyperParameterTuningJobSummaries": entries, **more}

    def _list_training_jobs_for_hyper_parameter_tuning_job(self, request: Json) -> Json:
        folder = self._tuning(request["HyperParameterTuningJobName"])
        config = read_request(folder).get("HyperParameterTuningJobConfig", {})
        objective = config.get("HyperParameterTuningJobObjective", {"Type": "Maximize", "MetricName": ""})
        states = trial_states(folder)
        for state in states:
            state["objective"] = final_objective(state, objective)
        if request.get("SortBy") == "FinalObjectiveMetricValue":  # AWS then omits trials without one
            states = [state for state in states if state["objective"] is not None]
        selected = select(states, request, "Name")
        entries, more = page([responses.trial_summary(state, objective) for state in selected], request)
        return {"TrainingJobSummaries": entries, **more}

    def _stop_training_job(self, request: Json) -> Json:
        return self._stop(self._training(request["TrainingJobName"]), "training job")

    def _stop_hyper_parameter_tuning_job(self, request: Json) -> Json:
        return self._stop(self._tuning(request["HyperParameterTuningJobName"]), "hyperparameter tuning job")

    def _add_tags(self, request: Json) -> Json:
        with self._tag_lock:  # the HTTP server answers requests in several threads
            file, tags = self._tags(request["ResourceArn"])
            merged = {tag["Key"]: tag["Value"] for tag in [*tags, *request["Tags"]]}
            tags = [{"Key": key, "Value": value} for key, value in merged.items()]
            write_json(file, {"Tags": tags})
        return {"Tags": tags}

    def _list_tags(self, request: Json) -> Json:
        entries, more = page(self._tags(request["ResourceArn"])[1], request, size=50)
        return {"Tags": entries, **more}

    def _create(self, name: str, start: Callable[[Path], subprocess.Popen[bytes]]) -> None:
        self._supervisors = [process for process in self._supervisors if process.poll() is None]
        folder = self.root / name
        try:
            self._supervisors.append(start(folder))
        except FileExistsError:
            raise ServiceError("ResourceInUse", f"{folder} exists already; choose another name") from None
        except OSError as error:
            raise UserError(
                f"the folder {folder} cannot be written: {error.strerror}; "
                "choose another output folder or free this one"
            ) from None

    def _jobs(self) -> list[Path]:
        """Returns the folders of the jobs directly under the root folder."""
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

    def _tags(self, arn: str) -> tuple[Path, list[Json]]:
        """Returns the file that stores added tags of a resource, and its tags."""
        kind, _, name = arn.rpartition(":")[2].partition("/")
        for records in (self.endpoints.models, self.endpoints.configs):
            if arn == job_arn(records.kind, name):
                return records.tags(name)
        if arn == job_arn(TUNING, name):
            folder = self._tuning(name)
        elif arn == job_arn(TRAINING, name):
            folder = self._training(name)
        elif arn == job_arn(ENDPOINT, name):
            folder = self.endpoints.read(name)[0]
            return folder / TAGS, (read_json(folder / TAGS) or read_json(folder / REQUEST)).get("Tags", [])
        else:
            raise ServiceError("ResourceNotFound", f"there is no {kind or arn} on this machine")
        added = read_json(folder / TAGS)
        if not added and is_tuning(folder.parent):  # a trial has the tags of its tuning job
            added = read_json(folder.parent / TAGS) or read_request(folder.parent)
        return folder / TAGS, (added or read_request(folder)).get("Tags", [])

    def _stop(self, folder: Path, kind: str) -> Json:
        status = read_state(folder)["status"]
        if status in FINAL:
            raise invalid(f"the {kind} {folder.name} is in status {status}; only a running one can be stopped")
        request_stop(folder, "user", "stopped by request")
        return {}


_OPERATIONS: dict[str, Callable[[LocalSageMaker, Json], Json]] = {
    "CreateTrainingJob": LocalSageMaker._create_training_job,
    "CreateHyperParameterTuningJob": LocalSageMaker._create_hyper_parameter_tuning_job,
    "DescribeTrainingJob": LocalSageMaker._describe_training_job,
    "DescribeHyperParameterTuningJob": LocalSageMaker._describe_hyper_parameter_tuning_job,
    "ListTrainingJobs": LocalSageMaker._list_training_jobs,
    "ListHyperParameterTuningJobs": LocalSageMaker._list_hyper_parameter_tuning_jobs,
    "ListTrainingJobsForHyperParameterTuningJob": LocalSageMaker._list_training_jobs_for_hyper_parameter_tuning_job,
    "StopTrainingJob": LocalSageMaker._stop_training_job,
    "StopHyperParameterTuningJob": LocalSageMaker._stop_hyper_parameter_tuning_job,
    "AddTags": LocalSageMaker._add_tags,
    "ListTags": LocalSageMaker._list_tags,
}


def _raise_problems(problems: Iterable[str]) -> None:
    """Raises the error by which AWS rejects a request, if there are problems."""
    if lines := list(problems):
        raise invalid(*lines)
