"""Removes an endpoint, on this machine or at AWS: it finishes what it is answering, ends, and costs nothing more.

python -m launch.undeploy NAME
python -m launch.undeploy NAME backend=sagemaker

Its configuration and its model's entry go with it; the model.tar.gz of the training stays.
"""

from __future__ import annotations

from dogbreed.cli.command import run_cli
from dogbreed.errors import UserError
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.hosting.endpoint_state import describe_endpoint, remove_endpoint, unknown_endpoint
from launch.spec.settings import compose
from launch.views.text import console


def main(words: list[str]) -> int:
    """Removes endpoint `NAME` and waits until it is gone; returns 0, or 128 + the signal that ended the waiting."""
    names = [word for word in words if "=" not in word]
    if len(names) != 1:
        raise UserError(
            "give the one name to remove: python -m launch.undeploy NAME; python -m launch.endpoints lists them"
        )
    cfg, out = compose("deploy", [word for word in words if "=" in word]), console()
    with api_errors(cfg):
        client = open_backend(cfg).client()
        endpoint = describe_endpoint(client, names[0])
        if endpoint is None:
            raise unknown_endpoint(client, names[0])
        left = remove_endpoint(client, cfg, endpoint, out)
    out.print(f"{left.name}: it is being removed without you" if left else f"endpoint {names[0]} is removed")
    return 128 + left if left else 0


if __name__ == "__main__":
    run_cli(main, __doc__)
