"""Validates requests, then prints them (`dry_run=true`) or sends them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig

from dogbreed.errors import UserError
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.spec.contract import Json
from launch.spec.limits import check_request, quota_warnings
from launch.views.text import console


def submit(
    cfg: DictConfig,
    requests: Mapping[str, Json],
    run: Callable[[Any], int],
    upload: Callable[[], None] = lambda: None,
) -> int:
    """Validates `requests` and calls `run` with a client that sends them; with `cfg.dry_run` prints them as JSON.

    `upload` uploads what they refer to, once they are valid. A single request is printed without its operation.

    Returns:
        The result of `run`; 0 with `cfg.dry_run`.

    Raises:
        UserError: Validation or SageMaker rejects a request; the message contains advice.
    """
    if problems := [line for operation, request in requests.items() for line in check_request(operation, request)]:
        raise UserError("; ".join(problems))
    backend = open_backend(cfg)
    for request in requests.values() if backend.billed else ():
        for warning in quota_warnings(request):
            console(stderr=True).print(f"warning: {warning}", soft_wrap=True)
    if cfg.dry_run:
        shown = next(iter(requests.values())) if len(requests) == 1 else dict(requests)
        print(json.dumps(shown, indent=2, ensure_ascii=False))
        return 0
    upload()
    with api_errors(cfg):
        return run(backend.client())
