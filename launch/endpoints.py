"""Lists endpoints with what they serve and what they cost per hour, on this machine or on AWS.

python -m launch.endpoints                      the newest 50, newest first
python -m launch.endpoints NAME                 one endpoint, with the end of its log
python -m launch.endpoints backend=sagemaker    those on AWS
"""

from __future__ import annotations

from dogbreed.cli.command import run_cli
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.cli import split_argv
from launch.hosting.endpoint_state import get_endpoint, list_endpoints, read_endpoint_info
from launch.spec.settings import BACKEND, compose_lookup
from launch.views.endpoint_tables import details_table, endpoints_table, print_log_tail, total_line
from launch.views.text import console


def main(argv: list[str]) -> int:
    """Prints all endpoints, or one; returns 0."""
    args = split_argv(argv)
    name = args.optional_name()
    cfg, out = compose_lookup("deploy", args.overrides), console()
    backend = open_backend(cfg)
    with api_errors(cfg):
        client = backend.client()
        if name is not None:
            out.print(details_table(backend, read_endpoint_info(client, get_endpoint(client, name))))
            print_log_tail(backend, name, out)
            return 0
        endpoints = list_endpoints(client)
    if not endpoints:
        out.print("there are no endpoints; deploy one with: python -m launch.deploy from_training=NAME")
        return 0
    out.print(endpoints_table(backend, endpoints))
    out.print(total_line(backend, endpoints))
    return 0


if __name__ == "__main__":
    run_cli(main, __doc__, BACKEND)
