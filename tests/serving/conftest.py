"""A small model folder, and an endpoint of it as a process of its own."""

import pytest

from tests.serving.endpoints import make_model, serving


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def endpoint(model_folder, tmp_path_factory):
    """One endpoint for all tests that leave it as it was."""
    with serving(model_folder, tmp_path_factory.mktemp("endpoint")) as running:
        yield running
