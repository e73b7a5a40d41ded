"""Every setting is declared once: it is in the composed config, it is described, and wrong values are one line."""

import dataclasses
import functools
import re

import pytest
from omegaconf import OmegaConf

from dogbreed.cli.overrides import parse
from dogbreed.cli.schema import check, settings_of
from dogbreed.errors import UserError
from dogbreed.run.settings import MoreTrainerSettings
from dogbreed.system.settings import declared
from launch.spec.settings import SCHEMAS, compose

CHOICES = {
    "train": ["data=s3", "data.url=s3://b/p"],
    "tune": ["data=s3", "data.url=s3://b/p", "backend=sagemaker"],
    "training": ["data=s3", "data.url=s3://b/p", "backend=sagemaker"],
    "deploy": ["backend=sagemaker"],
    "predict": ["backend=sagemaker"],
    "publish": [],
}
"""Choices whose config has all settings but those of `scheduler=step`."""

SETTINGS = [
    pytest.param(config, key, item, id=f"{config}-{key}")
    for config, schema in SCHEMAS.items()
    for key, item in settings_of(schema)
    if config not in ("tune", "training") or key not in dict(settings_of(SCHEMAS["train"]))
]


ADDED = {f"trainer.{item.name}" for item in declared(MoreTrainerSettings)}
"""Settings that `+KEY=VALUE` adds to a config."""

OTHER_CHOICES = {
    "scheduler.every_epochs": "scheduler=step",
    "scheduler.factor": "scheduler=step",
    "optimizer.momentum": "optimizer=sgd",
    "optimizer.nesterov": "optimizer=sgd",
}
"""Setting to the choice that has it, if the default choice does not."""


def overrides_for(config, key, value):
    """Returns overrides that compose `config` with `key=value`."""
    others = [OTHER_CHOICES[key]] if key in OTHER_CHOICES else []
    return [*CHOICES[config], *others, f"{'+' if key in ADDED else ''}{key}={value}"]


@functools.cache
def composed_once(config, *overrides):
    return compose(config, overrides)


@pytest.mark.parametrize("config", SCHEMAS)
def test_declared_setting_is_in_config_with_doc(config):
    others = [*set(OTHER_CHOICES.values())] if config in ("train", "tune", "training") else []
    configs = [compose(config, CHOICES[config]), compose(config, [*CHOICES[config], *others])]
    for key, item in settings_of(SCHEMAS[config]):
        parent, _, name = key.rpartition(".")
        nodes = [OmegaConf.select(cfg, parent) if parent else cfg for cfg in configs]
        assert any(name in node for node in nodes) or key in ADDED, key
        assert item.doc.endswith("."), key


@pytest.mark.parametrize("config", SCHEMAS)
def test_every_key_of_a_declared_group_is_declared(config):
    cfg, schema = compose(config, CHOICES[config]), SCHEMAS[config]
    for part, kinds in schema.items():
        if part:
            names = {item.name for kind in kinds for item in declared(kind)} | {"_target_"}
            assert set(cfg[part]) <= names
    top = {item.name for kind in schema[""] for item in declared(kind)}
    assert {key for key in cfg if not OmegaConf.is_dict(cfg[key])} <= top


@pytest.mark.parametrize(("config", "key", "item"), SETTINGS)
def test_wrong_value_gives_one_line(config, key, item):
    wrong = ["[1,{a:b}]", "{a:b}"] if item.kind not in (list, dict) else ["3"]
    wrong += ["[{a:b}]", "[[1]]"] if item.items else []
    wrong += [] if item.optional else ["null"]
    wrong += ["nan", "true", "abc"] if item.kind in (int, float) else []
    wrong += ["1.5"] if item.kind is int and not item.choices else []
    wrong += ["1", "no", "abc"] if item.kind is bool else []
    wrong += ["abc-def", "-7"] if item.choices or item.alternatives else []
    low = item.low if item.above is None else item.above + 1
    wrong += [] if low is None else [str(low - 1)]
    wrong += [] if item.high is None else [str(item.high + 1)]
    with pytest.raises(UserError, match=f"^{re.escape(key)}="):
        compose(config, overrides_for(config, key, wrong[0]))
    *others, _ = overrides_for(config, key, "")
    composed = composed_once(config, *others)
    for value in wrong:
        cfg = composed.copy()
        OmegaConf.update(cfg, key, parse([f"{key}={value}"])[0].value(), merge=False, force_add=True)
        with pytest.raises(UserError) as error:
            check(cfg, SCHEMAS[config])
        assert str(error.value).startswith(f"{key}="), value
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", SCHEMAS)
@pytest.mark.parametrize("value", ["3", "abc", "null", "[a]"])
def test_wrong_value_for_nested_settings_gives_one_line(config, value):
    for part, kinds in SCHEMAS[config].items():
        for kind in kinds:
            for item in declared(kind):
                if dataclasses.is_dataclass(item.kind):
                    key = f"{part}.{item.name}" if part else item.name
                    with pytest.raises(UserError, match="give each setting by its name") as error:
                        compose(config, [*CHOICES[config], f"{key}={value}"])
                    assert "\n" not in str(error.value)


def test_numbers_keep_their_declared_type():
    cfg = compose("train", ["epochs=3.0", "lr=1", "name=2024"])
    assert (cfg.epochs, cfg.lr, cfg.name) == (3, 1, "2024")
    assert isinstance(cfg.epochs, int)


def test_interpolations_survive_the_check():
    cfg = compose("train", ["batch_size=7", "name=x"])
    assert (cfg.data.batch_size, cfg.output_dir) == (7, "outputs/x")
    cfg.batch_size = 9
    assert cfg.data.batch_size == 9
