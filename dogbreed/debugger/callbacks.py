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

_PARTS = ("tensors", "predictions", "profiler", "images", "smdebug", "rules", "stop_on", "mlflow", "managed_rules")


def debugger_callbacks(config: Mapping[str, Any] | None, folder: str | Path) -> list[pl.Callback]:
    """Returns the callbacks of a training whose run folder is `folder`; [] for a config of None.

    Args:
        config: The group `debugger` of the config, as plain data or DictConfig. Parts `tensors`, `predictions`,
            `profiler`, `images` and `smdebug`: each `enabled` and the arguments of its callback. `rules`, `stop_on`.
        folder: The run's folder.

    Raises:
        UserError: an unknown part, rule or setting, or smdebug is asked for and not installed.
    """
    if not config:
        return []
    given = _as_plain(config)
    for name in given:
        if name not in _PARTS:
            raise UserError(f"debugger.{name} is not known{did_you_mean(name, _PARTS)}")
    rules, stop_on = given.get("rules") or {}, given.get("stop_on") or []
    callbacks: list[pl.Callback] = []
    profiler = _arguments(given, "profiler")
    if profiler is not None:
        callbacks.append(SystemProfiler(folder, **profiler))
    tensors = _arguments(given, "tensors")
    if tensors is not None:
        callbacks.append(TensorDebugger(folder, rules=rules, stop_on=stop_on, **tensors))
    elif stop_on:
        raise UserError("debugger.stop_on needs debugger.tensors.enabled=true: its rules look at what that records")
    predictions = _arguments(given, "predictions")
    if predictions is not None:
        callbacks.append(PredictionRecorder(folder, **predictions))
    smdebug = _arguments(given, "smdebug")
    if smdebug is not None:
        from dogbreed.debugger.record.smdebug_hook import SmdebugHook

        callbacks.append(SmdebugHook(folder, **smdebug))
    images = _arguments(given, "images")
    if images is not None:
        callbacks.append(ImageHasher(folder, **images))
    return [*callbacks, FailureReport(folder)] if callbacks else []


class FailureReport(pl.Callback):
    """Writes the report of a training that fails: it tells more than a traceback.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes what was recorded before the failure; the failure itself stays what is raised."""
        if trainer.is_global_zero:
            try:
                log.warning("what was recorded before the failure is in %s", write_report(self.folder, say=False).html)
            except (OSError, ValueError) as error:
                log.warning("no report of the failed training: %s", error)


def _as_plain(config: Any) -> dict[str, Any]:
    if isinstance(config, dict):
        return config
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True)
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}


def _arguments(config: Mapping[str, Any], part: str) -> dict[str, Any] | None:
    """Returns the arguments of a part's callback, None where the part is off."""
    settings = dict(config.get(part) or {})
    return settings if settings.pop("enabled", False) else None
