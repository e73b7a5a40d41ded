"""Selection of the model to deploy."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError
from rich.console import Console

from dogbreed.errors import UserError
from launch.hosting.model_source import find_model
from tests.launch.served import train


class Client:
    """Knows the training `both`, in a given status; lists nothing."""

    def __init__(self, status):
        self.status = status

    def describe_hyper_parameter_tuning_job(self, **request):
        raise ClientError({"Error": {"Code": "ResourceNotFound", "Message": ""}}, "Describe")

    def describe_training_job(self, TrainingJobName):
        if TrainingJobName != "both":
            raise ClientError(
                {"Error": {"Code": "ValidationException", "Message": "Requested resource not found."}}, "Describe"
            )
        return {"TrainingJobName": "both", "TrainingJobStatus": self.status, "FailureReason": "it crashed"}

    def get_paginator(self, operation):
        return SimpleNamespace(paginate=lambda **options: [])


def remote(status="Completed"):
    settings = SimpleNamespace(root="outputs")
    return SimpleNamespace(jobs_root=None, settings=settings, client=lambda: Client(status))


@pytest.fixture(autouse=True)
def both(tmp_path, monkeypatch):
    """Local trainings of which AWS knows one by the same name."""
    monkeypatch.chdir(tmp_path)
    train("both")
    train("mine")


@pytest.mark.parametrize(
    ("status", "message"),
    [("InProgress", "has not ended yet"), ("Failed", "failed, it has no model"), ("Stopped", "has no model")],
)
def test_find_model_remote_job_without_model_does_not_fall_back(status, message):
    with pytest.raises(UserError, match=f"training both {message}"):
        find_model(remote(status), "both", Console(quiet=True))


def test_find_model_unknown_remotely_falls_back_to_local():
    model = find_model(remote(), "mine", Console(quiet=True))
    assert model.name == "mine" and model.path == Path("outputs/mine/output/model.tar.gz")


def test_find_model_unknown_everywhere_rejected():
    with pytest.raises(UserError, match="no sweep or training is called 'unknown'"):
        find_model(remote(), "unknown", Console(quiet=True))
