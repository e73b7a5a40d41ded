"""The last step before SageMaker, for any operation: requests are checked, then shown (`dry_run=true`) or sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig

from dogbreed.errors import UserError
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.spec.limits import check_request


def submit(
    cfg: DictConfig,
    requests: Mapping[str, dict[str, Any]],
    run: Callable[[Any], int],
    upload: Callable[[], None] = lambda: None,
) -> int:
    """Hands a client to `run`, which sends `requests`; with `cfg.dry_run` they are printed as JSON instead.

    Args:
        cfg: the config at hand: its `backend`, `dry_run`, and what makes advice on AWS's errors concrete.
        requests: operation (`CreateTrainingJob`) to request; one alone is printed without its operation's name.
        run: sends them, follows what they started, and returns the exit status.
        upload: puts what the requests name where they say; called once all of them have passed.

    Returns:
        What `run` returned; 0 with `dry_run`.

    Raises:
        UserError: SageMaker would refuse a request, a line each; or what AWS answers, with what to do.
    """
    if problems := [line for operation, request in requests.items() for line in check_request(operation, request)]:
        raise UserError("\n       ".join(problems))
    if cfg.dry_run:
        shown = next(iter(requests.values())) if len(requests) == 1 else dict(requests)
        print(json.dumps(shown, indent=2, ensure_ascii=False))
        return 0
    upload()
    with api_errors(cfg):
        return run(open_backend(cfg).client())
