"""Shows the endpoints that there are, what they serve, and what they cost an hour, of this machine or of AWS.

python -m launch.endpoints                      all of them, newest first, 50 at most
python -m launch.endpoints NAME                 one of them, with the end of its log
python -m launch.endpoints backend=sagemaker    those at AWS
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from dogbreed.cli.command import run_cli
from dogbreed.errors import UserError
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.hosting.endpoint_state import describe_endpoint, list_endpoints, read_standing, unknown_endpoint
from launch.spec.settings import compose
from launch.views.endpoint_tables import details, endpoints_table, tail, total_line
from launch.views.text import console


def main(words: list[str]) -> int:
    """Prints the list, or one endpoint; returns 0."""
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        raise UserError(f"give one name at most, got {' '.join(names)}")
    cfg, out = compose("deploy", [word for word in words if "=" in word]), console()
    with api_errors(cfg):
        client = open_backend(cfg).client()
        if names:
            endpoint = describe_endpoint(client, names[0])
            if endpoint is None:
                raise unknown_endpoint(client, names[0])
            out.print(details(cfg, endpoint, read_standing(client, endpoint)))
            for line in tail(cfg, names[0]):
                out.print(f"  {line}", soft_wrap=True)
            return 0
        names = [summary["EndpointName"] for summary in list_endpoints(client)]
        with ThreadPoolExecutor(8) as threads:  # at AWS four requests for each
            listed = [found for found in threads.map(lambda name: describe_endpoint(client, name), names) if found]
            found = list(
                zip(listed, threads.map(lambda endpoint: read_standing(client, endpoint), listed), strict=True)
            )
    if not found:
        out.print("none is running; deploy one with: python -m launch.deploy from_training=NAME")
        return 0
    out.print(endpoints_table(cfg, found))
    out.print(total_line(cfg, found))
    return 0


if __name__ == "__main__":
    run_cli(main, __doc__)
