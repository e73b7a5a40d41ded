"""Every configuration in conf/debugger creates callbacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from dogbreed.cli.config import compose
from dogbreed.cli.groups import conf_dir
from dogbreed.debugger.callbacks import debugger_callbacks


def group(name: str):
    return compose(f"debugger/{name}").debugger


@pytest.mark.parametrize("name", [path.stem for path in sorted((conf_dir() / "debugger").glob("*.yaml"))])
def test_configuration_creates_callbacks(name: str, tmp_path: Path):
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
