"""Deletes an endpoint, on this machine or on AWS: it finishes pending requests, and its cost ends.

python -m launch.undeploy NAME
python -m launch.undeploy NAME backend=sagemaker

Its configuration and its model resource are deleted too; the training's model.tar.gz is kept.
"""

from __future__ import annotations

from dogbreed.cli.command import run_cli
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.cli import split_argv
from launch.hosting.endpoint_state import get_endpoint
from launch.hosting.lifecycle import delete_endpoint
from launch.runs.requests import check_owned
from launch.spec.settings import BACKEND, compose_lookup
from launch.views.text import console


def main(argv: list[str]) -> int:
    """Deletes one endpoint; returns 0 once it is deleted, or 128 + the signal that ended the waiting."""
    args = split_argv(argv)
    name = args.one_name("python -m launch.undeploy NAME; python -m launch.endpoints lists them")
    cfg, out = compose_lookup("deploy", args.overrides), console()
    backend = open_backend(cfg)
    with api_errors(cfg):
        client = backend.client()
        endpoint = get_endpoint(client, name)
        check_owned(client, "Endpoint", endpoint, name, "delete it with the tool that created it")
        received = delete_endpoint(client, backend, endpoint, out)
    if received:
        out.print(f"{received.name}: detached; deletion continues in the background")
        return 128 + received
    out.print(f"endpoint {name} is deleted")
    return 0


if __name__ == "__main__":
    run_cli(main, __doc__, BACKEND)
