"""The composed config: `conf/` and a list of Hydra overrides in, one checked config out. Imports no torch.

The command line, the launcher and the job in its container all compose through here, so that the same text means
the same thing everywhere and a mistake gives the same single line.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dogbreed.callbacks.metric_line import METRICS
from dogbreed.cli.groups import choices, conf_dir, unknown_choice
from dogbreed.cli.overrides import parse
from dogbreed.errors import UserError, did_you_mean

NUMBERS: dict[str, tuple[type, float, float]] = {
    "epochs": (int, 1, float("inf")),
    "batch_size": (int, 1, float("inf")),
    "effective_batch_size": (int, 1, float("inf")),
    "seed": (int, 0, 2**32 - 1),
    "unfreeze_epoch": (int, 0, float("inf")),
    "unfreeze_every": (int, 0, float("inf")),
    "lr": (float, 0, float("inf")),
    "weight_decay": (float, 0, float("inf")),
    "label_smoothing": (float, 0, 1),
    "backbone_lr_factor": (float, 0, float("inf")),
    "layer_decay": (float, 0, 1),
    "mixup": (float, 0, float("inf")),
    "cutmix": (float, 0, float("inf")),
    "averaging_decay": (float, 0, 1),
    "averaging_start": (float, 0, 1),
    "checkpoint_s": (float, 0, float("inf")),
    "data.crop_area": (float, 0, 1),
    "data.randaugment": (int, 0, 30),
    "features.views": (int, 0, float("inf")),
    "features.max_gb": (float, 0, float("inf")),
}
"""Key, type, lowest and highest value of each number at the top of the config."""

OPTIONAL = ("data.crop_area", "features.views", "features.max_gb", "averaging_start", "effective_batch_size")
"""Those of them that may be null, or not there at all."""

BOOLEANS = (
    "tta", "freeze_norms", "channels_last", "compile", "checkpoint_at_end",
    "data.augment", "data.balanced", "data.cache_scaled", "data.request_payer",
    "debugger.tensors.enabled", "debugger.tensors.activations", "debugger.predictions.enabled",
    "debugger.profiler.enabled", "debugger.images.enabled", "debugger.smdebug.enabled",
)  # fmt: skip
"""Keys that are true or false, where they are there."""

CHOICES: dict[str, tuple[str | None, ...]] = {
    "finetune": (None, "head", "full", "gradual", "linear_probe"),
    "head_start": (None, "solved", "pretrained"),
    "averaging": (None, "ema", "swa"),
    "lr_scaling": ("none", "linear", "sqrt"),
    "objective.metric": METRICS,
    "objective.goal": ("maximize", "minimize"),
    "data.randaugment_on": ("worker", "device"),
    "data.bad_images": ("skip", "raise"),
}
"""Key and allowed words."""


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Returns `conf/CONFIG_NAME.yaml` composed with Hydra `overrides`, checked, nothing decided yet.

    Raises:
        UserError: an override cannot be parsed, names what is not there, or gives a value that is not allowed.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = hydra_compose(config_name, ["experiment=[]" if o == "experiment=null" else o for o in overrides])
    except MissingConfigException as error:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        known = bool(group and error.options)
        raise UserError(unknown_choice(group, name, error.options or ()) if known else str(error)) from None
    except HydraException as error:
        parse(overrides)  # Hydra does not say which of them it cannot read
        raise UserError(_explain(config_name, error)) from None
    except ValueError as error:
        raise UserError(_no_word(overrides) or " ".join(str(error).split())) from None
    check(cfg)
    return cfg


def _no_word(overrides: Sequence[str]) -> str:
    """Returns the line about the first of `overrides` that gives a group null or a number; empty where none does."""
    given = ((o.key_or_group, str(o.input_line).partition("=")[2], o.value()) for o in parse(overrides))
    wrong = (item for item in given if choices(item[0]) and not isinstance(item[2], (str, list, dict)))
    return next((unknown_choice(group, text, choices(group)) for group, text, _ in wrong), "")


def _explain(config_name: str, error: HydraException) -> str:
    """Returns one line for Hydra's message, with a suggestion where a key is unknown."""
    first = str(error).splitlines()[0]
    _, quote, rest = first.partition("Could not override '")
    if not quote:
        return " ".join(str(error).split())
    key = rest.split("'")[0]
    parent, _, leaf = key.rpartition(".")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        node = OmegaConf.select(hydra_compose(config_name), parent) if parent else hydra_compose(config_name)
    known = [str(name) for name in node] if isinstance(node, DictConfig) else []
    hint = did_you_mean(leaf, known).replace("mean ", f"mean {parent}." if parent else "mean ") if known else ""
    return f"key '{key}' is unknown{hint}" + (f" (+{key}=VALUE adds a new one)" if parent else "")


def check(cfg: DictConfig) -> None:
    """Checks the values of `cfg` that have bounds, and that what must be given is there.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    if "trainer" not in cfg:  # deploy.yaml, predict.yaml: nothing is trained
        return
    for key, (kind, low, high) in NUMBERS.items():
        value = _select(cfg, key)
        if value is None and key in OPTIONAL:
            continue
        number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
        if not low <= number <= high or (kind is int and number % 1 != 0):
            bounds = f"of at least {low}" if high == float("inf") else f"from {low} to {high}"
            raise UserError(f"{key}={value}: must be a {'whole ' if kind is int else ''}number {bounds}")
    for key in BOOLEANS:
        value = _select(cfg, key)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{key}={value}: must be true or false")
    for key, allowed in CHOICES.items():
        value = _select(cfg, key)
        if value not in allowed:
            words = ["null" if word is None else word for word in allowed]
            raise UserError(f"{key}={value}: not allowed{did_you_mean(str(value), words)}")
    for key in ("data.url", "model.name"):
        _select(cfg, key)


def _select(cfg: DictConfig, key: str) -> object:
    try:
        return OmegaConf.select(cfg, key, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if OmegaConf.is_missing(OmegaConf.select(cfg, key.rpartition(".")[0]), key.rpartition(".")[2]):
            raise UserError(f"{key} is not set: type {key}=VALUE") from None
        raise UserError(f"{key}: {' '.join(str(error).split())}") from None


def resolve_defaults(cfg: DictConfig) -> DictConfig:
    """Returns `cfg` with what it left open decided: weights, what is finetuned, how processes share it, and the name.

    Demo images are drawn, so that a small network learns them from random weights without a network; the user's own
    images get pretrained weights unless random ones are asked for by name.
    """
    cfg = cfg.copy()
    demo = str(cfg.data.url).startswith("demo:")
    if cfg.model.weights is None:
        cfg.model.weights = "random" if demo else "hub"
    if cfg.finetune is None:
        cfg.finetune = "full" if cfg.model.weights == "random" else "head"
    if cfg.finetune == "gradual" and cfg.trainer.get("strategy") == "ddp":
        cfg.trainer.strategy = "ddp_find_unused_parameters_true"  # what is frozen yet has no gradient
    if cfg.name is None:
        cfg.name = fresh_name(str(cfg.model.name))
    return cfg


def fresh_name(stem: str) -> str:
    """Returns a readable name of at most 32 characters that is new even within one second: `resnet34-1121-013911-x7k`.

    Made of letters, digits and single hyphens, as SageMaker wants it.
    """
    words = "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in stem).split())[:16].strip("-")
    suffix = "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(3))
    return f"{words or 'run'}-{time.strftime('%m%d-%H%M%S')}-{suffix}"
