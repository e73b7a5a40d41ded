from __future__ import annotations

import json
from pathlib import Path

from tests.debugger.tiny import MEAN, STD, TinyData, TinyModel, network, train

SMALL = TinyData((32, 32), batch_size=16, val=8)


def test_run_settings_describe_data_model_and_training(tmp_path: Path):
    train(tmp_path, TinyModel(network(2)), SMALL, 3, {"tensors": {"enabled": True}}, test=False)
    settings = json.loads((tmp_path / "debug" / "run.json").read_text())
    assert settings["classes"] == SMALL.classes
    assert settings["class_counts"] == {"000.breed_0": 32, "001.breed_1": 32}
    assert (settings["lr"], settings["batch_size"], settings["epochs"]) == (3e-3, 16, 3)
    assert (settings["mean"], settings["std"]) == (MEAN, STD)
