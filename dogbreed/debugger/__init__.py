"""What went wrong in a training, and where the time went.

    from dogbreed.debugger import TensorDebugger, SystemProfiler, write_report

Callbacks record plain files into a run's folder while it trains; rules (one small function each) look at them
afterwards, or while the training runs; a report shows what they found. Names are loaded at first use: rules and
reports need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dogbreed.debugger.callbacks import debugger_callbacks
    from dogbreed.debugger.findings import Evidence, Finding, Outcome, Status, insufficient, issue, not_applicable, ok
    from dogbreed.debugger.hook import TensorDebugger
    from dogbreed.debugger.pictures import PictureCheck
    from dogbreed.debugger.predictions import PredictionRecorder
    from dogbreed.debugger.profiler import SystemProfiler
    from dogbreed.debugger.reading import read_run
    from dogbreed.debugger.registry import evaluate, rule
    from dogbreed.debugger.report import read_findings, write_report

_MODULES = {
    "debugger_callbacks": "callbacks",
    "Evidence": "findings",
    "Finding": "findings",
    "Outcome": "findings",
    "Status": "findings",
    "insufficient": "findings",
    "issue": "findings",
    "not_applicable": "findings",
    "ok": "findings",
    "TensorDebugger": "hook",
    "PictureCheck": "pictures",
    "PredictionRecorder": "predictions",
    "SystemProfiler": "profiler",
    "read_run": "reading",
    "evaluate": "registry",
    "rule": "registry",
    "read_findings": "report",
    "write_report": "report",
}

__all__ = [
    "Evidence",
    "Finding",
    "Outcome",
    "PictureCheck",
    "PredictionRecorder",
    "Status",
    "SystemProfiler",
    "TensorDebugger",
    "debugger_callbacks",
    "evaluate",
    "insufficient",
    "issue",
    "not_applicable",
    "ok",
    "read_findings",
    "read_run",
    "rule",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'dogbreed.debugger' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"dogbreed.debugger.{_MODULES[name]}"), name)
