"""A pytest plugin: in CI a skipped test is a failure unless its reason is listed here.

Otherwise a test that is skipped everywhere would go unnoticed.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

ALLOWED = {
    "root may look into every folder": "CI runs as root; a developer's machine runs this test",
}
"""Reasons that may appear in CI, and why."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, Any, None]:
    """Turns a skip into a failure when CI=true."""
    report = (yield).get_result()
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = str(call.excinfo.value) if call.excinfo else ""
        if not any(allowed in reason for allowed in ALLOWED):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}; install what it needs, or list the reason in tests/skips.py"
