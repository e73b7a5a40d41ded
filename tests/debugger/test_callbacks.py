from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl

from dogbreed.debugger.callbacks import debugger_callbacks
from dogbreed.debugger.read.reader import read_run
from dogbreed.errors import UserError
from tests.debugger.tiny import CONFIG, TinyData, TinyModel, network, train

SMALL = TinyData((32, 32), batch_size=16, val=8)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**CONFIG, "stop_on": ["Overfitt"]}, "did you mean Overfit"),
        ({"stop_on": ["Overfit"]}, "debugger.tensors.enabled=true"),
        ({"tensor": {"enabled": True}}, "did you mean tensors"),
        ({"smdebug": {"enabled": True, "collections": ["gradient"]}}, "did you mean gradients"),
    ],
)
def test_wrong_setting_raises_before_training(config: dict, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        debugger_callbacks(config, tmp_path)


def test_failed_training_leaves_records_and_report(tmp_path: Path):
    class Failing(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 6:
                raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        train(tmp_path, TinyModel(network(2)), SMALL, 3, callbacks=[Failing()])
    recording = read_run(tmp_path)
    assert recording.inputs["gradients"].steps.tolist() == list(range(6))
    assert recording.inputs["step_times"].steps.tolist() == list(range(6))
    assert "out of memory" in recording.events[-1]["why"]
    assert "RuntimeError: out of memory" in (tmp_path / "report.html").read_text()


def test_failed_report_does_not_replace_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    def fail(*_, **__):
        raise KeyError("report")

    monkeypatch.setattr("dogbreed.debugger.callbacks.write_report", fail)
    model = TinyModel(network(2))
    model.training_step = lambda *_: 1 / 0  # type: ignore[assignment, method-assign]
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, model, SMALL, 1)
    assert "no report of the failed training" in caplog.text
