"""Composes one checked config from `conf/` and a list of Hydra overrides. Imports no torch.

The command line, the launcher and the job in its container all compose here, so the same text means the same
everywhere, and a mistake gives the same one-line message.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf

from dogbreed.cli.groups import choices, conf_dir, default_choices, unknown_choice
from dogbreed.cli.overrides import Overrides, is_sweep, parse
from dogbreed.cli.schema import TRAINING, Schema, check, register, settings_of
from dogbreed.errors import UserError, did_you_mean

_MERGE_ERROR = "Error merging override "
"""Start of Hydra's message if a list is given for settings with names."""

__all__ = ["check", "compose", "compose_unchecked", "fresh_name", "resolve_defaults"]


def compose(config_name: str, overrides: Iterable[str] | Overrides = (), schema: Schema = TRAINING) -> DictConfig:
    """Returns `conf/CONFIG_NAME.yaml` composed with Hydra `overrides`, checked against `schema`, defaults unresolved.

    Args:
        config_name: Name of the file, without its suffix.
        overrides: `KEY=VALUE` and `GROUP=CHOICE`, as text or parsed.
        schema: The settings that the config has.

    Raises:
        UserError: An override cannot be parsed, names an unknown key or choice, or gives a value that is not allowed.
    """
    cfg = compose_unchecked(config_name, overrides, schema)
    check(cfg, schema)
    return cfg


def compose_unchecked(
    config_name: str, overrides: Iterable[str] | Overrides = (), schema: Schema = TRAINING
) -> DictConfig:
    """Returns the config of `compose` before its values are checked.

    Raises:
        UserError: An override cannot be parsed, gives several values, or names an unknown key or choice.
    """
    parsed = parse(overrides)
    _check_choices(parsed, default_choices(config_name))
    texts = ["experiment=[]" if text == "experiment=null" else text for text in parsed.texts]
    register(schema)
    with _hydra():
        try:
            return hydra_compose(config_name, texts)
        except HydraException as error:
            raise UserError(_explain(config_name, error, schema)) from None
        except ValueError as error:
            raise UserError(" ".join(str(error).split())) from None


@contextmanager
def _hydra() -> Iterator[None]:
    """Initialises Hydra with `conf/`, and then restores the state of an application that itself runs under Hydra."""
    instance, version, runtime = GlobalHydra.instance(), VersionBase.instance(), JobRuntime.instance()
    hydra, version_base, job_name = instance.hydra, version.version_base, runtime.get("name")
    instance.clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.set_instance(instance)
        instance.hydra, version.version_base = hydra, version_base
        runtime.set("name", job_name)


def _check_choices(overrides: Overrides, groups: Container[str]) -> None:
    """Checks what can be checked before composing: that each override gives one value, and groups a known choice."""
    for override in overrides:
        key, text = override.key_or_group, str(override.input_line)
        if is_sweep(override):
            raise UserError(
                f"{text}: several values, but this command takes one; python -m launch.tune '{text}' searches them"
            )
        options, value = choices(key), override.value()
        if options and key not in groups:
            if isinstance(value, str):
                continue  # Hydra knows whether the config has that key
            raise UserError(_not_a_group(key))
        if not options or override.is_delete() or (text.partition("=")[2] == "null" and key == "experiment"):
            continue
        if isinstance(value, dict) or (isinstance(value, list) and key != "experiment"):
            raise UserError(f"{text}: not a choice of {key}{did_you_mean('', options)}")
        for name in value if isinstance(value, list) else [value]:
            if name not in options:
                given = name if isinstance(name, str) else text.partition("=")[2]
                raise UserError(unknown_choice(key, given, options))


def _not_a_group(key: str) -> str:
    return f"{key} is not a config group of this command: give each setting by its name, type {key}.NAME=VALUE"


def _explain(config_name: str, error: HydraException, schema: Schema) -> str:
    """Returns one line for Hydra's message, with a suggestion if a key is unknown. Needs an initialised Hydra."""
    first = str(error).splitlines()[0]
    if first.startswith(_MERGE_ERROR):
        return f"{first.removeprefix(_MERGE_ERROR)}: give each setting by its name, type KEY.NAME=VALUE"
    _, quote, rest = first.partition("Could not override '")
    if not quote:
        return " ".join(str(error).split())
    return _unknown_key(rest.split("'")[0], hydra_compose(config_name), schema)


def _unknown_key(key: str, cfg: DictConfig, schema: Schema) -> str:
    """Returns the error message for a key that `cfg`, the config without overrides, does not have."""
    group = key.partition(".")[0]
    if choices(group) and group not in cfg:
        return f"key '{key}' has no effect on this command: leave it out"
    if choices(key):
        return _not_a_group(key)
    parent, _, leaf = key.rpartition(".")
    exact = [full for full, _ in settings_of(schema) if full.rpartition(".")[2] == leaf]
    if key in exact:
        return f"key '{key}' is not in this {group}: choose another {group}, or add it with +{key}=VALUE"
    if exact:
        return f"key '{key}' is unknown; did you mean {exact[0]}?"
    node = OmegaConf.select(cfg, parent) if parent else cfg
    known = [f"{parent}.{name!s}".lstrip(".") for name in node] if isinstance(node, DictConfig) else []
    hint = did_you_mean(key, known) if known else ""
    return f"key '{key}' is unknown{hint}" + (f" (+{key}=VALUE adds a new one)" if parent else "")


def resolve_defaults(cfg: DictConfig) -> DictConfig:
    """Returns a copy of `cfg` in which every setting that is null by default and depends on another is decided.

    What it decides is part of the public interface:

    - `model.weights`: `random` for demo images, which a small network learns without a download; else `hub`.
    - `finetune`: `full` if `model.weights` is `random`, because a random backbone must be trained; else `head`.
    - `trainer.strategy`: `ddp` becomes `ddp_find_unused_parameters_true` for `finetune=gradual`, whose frozen
      parameters have no gradients yet.
    - `name`: the model's name, the time and three random characters; see `fresh_name`.

    Values that are given are kept. Resolving twice changes nothing.
    """
    cfg = cfg.copy()
    if cfg.model.weights is None:
        cfg.model.weights = "random" if str(cfg.data.url).startswith("demo:") else "hub"
    if cfg.finetune is None:
        cfg.finetune = "full" if cfg.model.weights == "random" else "head"
    if cfg.finetune == "gradual" and cfg.trainer.get("strategy") == "ddp":
        cfg.trainer.strategy = "ddp_find_unused_parameters_true"
    if cfg.name is None:
        cfg.name = fresh_name(str(cfg.model.name))
    return cfg


def fresh_name(stem: str) -> str:
    """Returns a readable name of at most 32 characters, new even within one second: `resnet34-1121-013911-x7k`.

    It consists of letters, digits and single hyphens, as SageMaker demands.
    """
    words = "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in stem).split())[:16].strip("-")
    suffix = "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(3))
    return f"{words or 'run'}-{time.strftime('%m%d-%H%M%S')}-{suffix}"
