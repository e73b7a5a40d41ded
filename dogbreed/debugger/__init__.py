"""Detects problems of a training, and measures where its time goes.

    from dogbreed.debugger import TensorDebugger, SystemProfiler, write_report

Callbacks record plain files into a run's folder while it trains; rules (one small function each) evaluate them
afterwards, or while the training runs; a report shows the findings. Names are loaded at first use: rules and
reports need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dogbreed.debugger.callbacks import debugger_callbacks
    from dogbreed.debugger.findings import Evidence, Finding, Outcome, Status, insufficient, issue, not_applicable, ok
    from dogbreed.debugger.read.reader import read_run
    from dogbreed.debugger.record.image_hashes import ImageHasher
    from dogbreed.debugger.record.predictions import PredictionRecorder
    from dogbreed.debugger.record.profiler import SystemProfiler
    from dogbreed.debugger.record.tensor_debugger import TensorDebugger
    from dogbreed.debugger.report.report import read_findings, write_report
    from dogbreed.debugger.rules.base import rule
    from dogbreed.debugger.rules.evaluate import evaluate

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
    "TensorDebugger": "record.tensor_debugger",
    "ImageHasher": "record.image_hashes",
    "PredictionRecorder": "record.predictions",
    "SystemProfiler": "record.profiler",
    "read_run": "read.reader",
    "evaluate": "rules.evaluate",
    "rule": "rules.base",
    "read_findings": "report.report",
    "write_report": "report.report",
}

__all__ = [
    "Evidence",
    "Finding",
    "ImageHasher",
    "Outcome",
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
