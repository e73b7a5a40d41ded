"""Requests whose outcome is unknown, and resources of others."""

from unittest.mock import MagicMock

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, InvalidRegionError, ReadTimeoutError

from dogbreed.errors import UserError
from launch import stop
from launch.backends.aws.errors import api_errors
from launch.local.job_store import STATE, write_json
from launch.runs.requests import UnknownOutcomeError, create
from tests.launch.local_jobs import put_tuning

REQUEST = {"EndpointName": "dogs", "EndpointConfigName": "dogs-1"}
TIMEOUT = ReadTimeoutError(endpoint_url="https://aws")
MISSING = ClientError(
    {"Error": {"Code": "ValidationException", "Message": 'Could not find endpoint "dogs"'}}, "Describe"
)


def rejected(retries=0, status=400):
    meta = {"HTTPStatusCode": status, "RetryAttempts": retries}
    return ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}, "ResponseMetadata": meta}, "Create")


@pytest.mark.parametrize(
    ("error", "found", "expected"),
    [
        (TIMEOUT, TIMEOUT, UnknownOutcomeError),
        (TIMEOUT, MISSING, UnknownOutcomeError),  # it may still be on its way
        (rejected(retries=1), TIMEOUT, UnknownOutcomeError),
        (rejected(retries=1), MISSING, ClientError),
        (rejected(status=500), MISSING, ClientError),
        (rejected(), None, ClientError),
    ],
)
def test_create_without_an_answer_reports_what_is_known(error, found, expected):
    client = MagicMock()
    client.create_endpoint.side_effect = error
    client.describe_endpoint.side_effect = found
    with pytest.raises(expected):
        create(client, "CreateEndpoint", REQUEST, "dogs")
    assert client.describe_endpoint.called == (found is not None)


def test_stop_of_a_foreign_sweep_is_rejected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put_tuning(tmp_path / "outputs" / "theirs")
    write_json(tmp_path / "outputs" / "theirs" / STATE, {"status": "InProgress"})
    monkeypatch.setattr("launch.local.job_store.read_supervised", lambda *_: {"status": "InProgress"})
    with pytest.raises(UserError, match=r"sweep theirs exists, but launch did not create it .* its tags: none"):
        stop.main(["theirs"])
    assert not (tmp_path / "outputs" / "theirs" / "stop.json").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            InvalidRegionError(region_name="mars 1"),
            "^Provided region_name 'mars 1' .*: check backend.region",
        ),
        (EndpointConnectionError(endpoint_url="https://aws"), "^AWS cannot be reached: .*check the network"),
    ],
)
def test_configuration_mistakes_are_not_network_errors(error, message):
    with pytest.raises(UserError, match=message), api_errors():
        raise error
