"""A small model folder, and an endpoint serving it in a separate process."""

import pytest

from tests.serving.running_endpoint import make_model, run_endpoint


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def endpoint(model_folder, tmp_path_factory):
    """One endpoint, shared by all tests that do not change its state."""
    with run_endpoint(model_folder, tmp_path_factory.mktemp("endpoint")) as running:
        yield running
