"""The callbacks that `conf/debugger` describes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from dogbreed.debugger.record.image_hashes import ImageHasher
from dogbreed.debugger.record.predictions import PredictionRecorder
from dogbreed.debugger.record.profiler import SystemProfiler
from dogbreed.debugger.record.tensor_debugger import TensorDebugger
from dogbreed.debugger.report.report import write_report
from dogbreed.errors import UserError, did_you_mean

log = logging.getLogger(__name__)

_SECTIONS = ("tensors", "predictions", "profiler", "images", "smdebug", "rules", "stop_on")


def debugger_callbacks(config: Mapping[str, Any] | None, folder: str | Path) -> list[pl.Callback]:
    """Returns the callbacks of a training; [] if nothing is enabled.

    Args:
        config: The config group `debugger`, as plain data or DictConfig. The sections `tensors`, `predictions`,
            `profiler`, `images` and `smdebug` hold `enabled` and the arguments of their callback; `rules` and
            `stop_on` go to `TensorDebugger`.
        folder: The run's folder.

    Raises:
        UserError: an unknown section, rule or setting, or smdebug is enabled and not installed.
    """
    settings = _as_plain(config or {})
    for name in settings:
        if name not in _SECTIONS:
            raise UserError(f"debugger.{name} is unknown{did_you_mean(name, _SECTIONS)}")

    def enabled(section: str) -> dict[str, Any] | None:
        arguments = dict(settings.get(section) or {})
        return arguments if arguments.pop("enabled", False) else None

    rules, stop_on = settings.get("rules") or {}, settings.get("stop_on") or []
    callbacks: list[pl.Callback] = []
    if (arguments := enabled("profiler")) is not None:
        callbacks.append(SystemProfiler(folder, **arguments))
    if (arguments := enabled("tensors")) is not None:
        callbacks.append(TensorDebugger(folder, rules=rules, stop_on=stop_on, **arguments))
    elif stop_on:
        raise UserError("debugger.stop_on needs the records of debugger.tensors: set debugger.tensors.enabled=true")
    if (arguments := enabled("predictions")) is not None:
        callbacks.append(PredictionRecorder(folder, **arguments))
    if (arguments := enabled("smdebug")) is not None:
        from dogbreed.debugger.record.smdebug_hook import SmdebugHook

        callbacks.append(SmdebugHook(folder, **arguments))
    if (arguments := enabled("images")) is not None:
        callbacks.append(ImageHasher(folder, **arguments))
    return [*callbacks, FailureReport(folder)] if callbacks else []


class FailureReport(pl.Callback):
    """Writes the report of a training that fails; must come after the recorders, which flush their files first.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes the report; the exception of the training is still raised."""
        if trainer.is_global_zero:
            try:
                report = write_report(self.folder, print_findings=False)
                log.warning("report of the failed training: %s", report.html)
            except Exception as error:  # noqa: BLE001 - must not replace the training's own exception
                log.warning("no report of the failed training: %s", error)


def _as_plain(config: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(config, dict):
        return config
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True)
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}
