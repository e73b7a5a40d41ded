"""Connects declared settings with Hydra: registers them as configs, and checks composed values against them.

A schema maps each part of a config (`""` is the top level) to the dataclasses that declare its settings. Each dataclass
is stored in Hydra's ConfigStore, in the group of its part and under its name in snake case, so that the YAML files take
names and defaults from there: `defaults: [data_settings]`. The stored nodes are plain, not typed: OmegaConf would
convert `no` or 1 to a boolean, and reports a mismatch in several lines; `check` does neither.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dogbreed.callbacks.settings import AveragingSettings
from dogbreed.data.settings import DataSettings, FeatureSettings, S3DataSettings
from dogbreed.debugger.settings import DebuggerSettings
from dogbreed.errors import UserError
from dogbreed.models.hyperparameters import (
    CosineSettings,
    Hyperparameters,
    OptimizerSettings,
    SgdSettings,
    StepSettings,
)
from dogbreed.run.settings import ModelSettings, MoreTrainerSettings, TrainerSettings, TrainingSettings
from dogbreed.system import settings
from dogbreed.system.settings import Setting, declared

Schema = Mapping[str, tuple[type, ...]]

TRAINING: Schema = {
    "": (TrainingSettings, Hyperparameters, AveragingSettings),
    "model": (ModelSettings,),
    "optimizer": (OptimizerSettings, SgdSettings),
    "scheduler": (CosineSettings, StepSettings),
    "data": (DataSettings, S3DataSettings),
    "features": (FeatureSettings,),
    "trainer": (TrainerSettings, MoreTrainerSettings),
    "debugger": (DebuggerSettings,),
}
"""The settings of conf/train.yaml."""


def register(schema: Schema) -> None:
    """Stores the dataclasses of `schema` in Hydra's ConfigStore; does nothing for those that are stored already."""
    for part, kinds in schema.items():
        for kind in kinds:
            store_node(part, config_name(kind), settings.defaults(kind))


def store_node(group: str, name: str, node: Mapping[str, Any]) -> None:
    """Stores `node` as choice `name` of `group`, or as a top-level config if `group` is empty."""
    ConfigStore.instance().store(name, dict(node), group=group or None, provider="dogbreed")


def config_name(kind: type) -> str:
    """Returns the name of a dataclass in the defaults lists of `conf/`: `data_settings` for `DataSettings`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()


def settings_of(schema: Schema) -> Iterator[tuple[str, Setting]]:
    """Yields the full key and the declaration of each setting in `schema`, nested ones included."""
    for part, kinds in schema.items():
        for kind in kinds:
            yield from _flat(kind, f"{part}." if part else "")


def _flat(kind: type, prefix: str) -> Iterator[tuple[str, Setting]]:
    for item in declared(kind):
        if dataclasses.is_dataclass(item.kind):
            yield from _flat(item.kind, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item


def search_ranges(schema: Schema) -> dict[str, str]:
    """Returns key and default search range of each setting that declares one."""
    return {key: item.search for key, item in settings_of(schema) if item.search is not None}


def check(cfg: DictConfig, schema: Schema) -> None:
    """Checks the values of `cfg` that `schema` declares, and converts them to their declared types in place.

    Raises:
        UserError: A value is missing or not allowed; the message names the key, the value and what is allowed.
    """
    for part, kinds in schema.items():
        if part and not OmegaConf.is_config(node := OmegaConf.select(cfg, part)):
            if part in cfg:
                raise UserError(
                    f"{part}={settings.show_value(node)}: give each setting by its name, type {part}.NAME=VALUE"
                )
            continue
        for kind in kinds:
            _check_part(cfg, part, kind)


def _check_part(cfg: DictConfig, part: str, kind: type) -> None:
    node = OmegaConf.select(cfg, part) if part else cfg
    prefix = f"{part}." if part else ""
    names = set(node.keys())  # `name in node` is false for a missing value
    given = {item.name: _value(cfg, f"{prefix}{item.name}") for item in declared(kind) if item.name in names}
    for name, value in settings.check(kind, given, prefix).items():
        unchanged = type(value) is type(given[name]) and value == given[name]
        if not unchanged and not OmegaConf.is_interpolation(node, name):
            OmegaConf.update(cfg, f"{prefix}{name}", value)


def _value(cfg: DictConfig, key: str) -> Any:
    """Returns a value of `cfg` as plain data.

    Raises:
        UserError: The value is missing, or an interpolation in it cannot be resolved.
    """
    try:
        value = OmegaConf.select(cfg, key, throw_on_missing=True)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        parent, _, name = key.rpartition(".")
        if OmegaConf.is_missing(OmegaConf.select(cfg, parent) if parent else cfg, name):
            raise UserError(f"{key} is not set: type {key}=VALUE") from None
        raise UserError(f"{key}: {' '.join(str(error).split())}") from None
