"""Every configuration in conf/debugger makes callbacks, and every override a rule can suggest exists in conf/."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dogbreed.cli.config import conf_dir
from dogbreed.debugger.callbacks import debugger_callbacks
from dogbreed.debugger.rules import advice
from tests.paths import ROOT

RULES = ROOT / "dogbreed" / "debugger" / "rules"


def group(name: str):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(f"debugger/{name}").debugger


@pytest.mark.parametrize("name", [path.stem for path in sorted((conf_dir() / "debugger").glob("*.yaml"))])
def test_configuration_makes_callbacks(name: str, tmp_path: Path):
    if name == "smdebug":
        pytest.importorskip("smdebug")
    callbacks = [type(callback).__name__ for callback in debugger_callbacks(group(name), tmp_path)]
    expected = ["SystemProfiler", "TensorDebugger", "PredictionRecorder", "ImageHasher", "FailureReport"]
    assert callbacks == {"off": [], "default": expected, "smdebug": [*expected[:3], "SmdebugHook", *expected[3:]]}[name]


def test_defaults_of_the_file_are_those_of_the_callbacks(tmp_path: Path):
    from_file, bare = (
        group("default"),
        {part: {"enabled": True} for part in ("profiler", "tensors", "predictions", "images")},
    )
    for ours, plain in zip(debugger_callbacks(from_file, tmp_path), debugger_callbacks(bare, tmp_path), strict=True):
        public = [name for name in vars(plain) if not name.startswith("_")]
        assert {name: getattr(ours, name) for name in public} == {name: getattr(plain, name) for name in public}


def suggested() -> set[str]:
    """Returns every `KEY=VALUE` that is written in a rule."""
    texts = set()
    for path in RULES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and re.fullmatch(r"\+{0,2}[a-z_]+(\.\w+)*=\S+", text):
                texts.add(text)
    settings = {"lr": 0.01, "batch_size": 8, "weight_decay": 0.1, "cores": 4, "num_workers": 1}
    texts |= {advice.learning_rate(settings, 0.1), advice.epochs(0), advice.weight_decay(settings)}
    return texts | {advice.batch_size(settings, 2), advice.num_workers(settings)}


def test_every_override_a_rule_suggests_can_be_composed():
    overrides = suggested()
    assert len(overrides) > 10
    in_train = "debugger" in OmegaConf.to_yaml(OmegaConf.load(conf_dir() / "train.yaml").defaults)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for override in sorted(overrides):
            compose("train", [*([] if in_train else ["+debugger=default"]), override])
