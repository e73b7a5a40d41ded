from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl

from dogbreed.debugger.record.recorder import Recorder, safe_hook
from tests.debugger.tiny import CONFIG, TinyData, TinyModel, network, train

SMALL = TinyData((32, 32), batch_size=16, val=8)


class Failing(Recorder):
    """Fails at its third batch."""

    def __init__(self) -> None:
        self.num_batches = self.num_released = 0

    @safe_hook
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.num_batches += 1
        if self.num_batches == 3:
            raise OSError("no space left on device")

    def release(self, trainer):
        self.num_released += 1


def test_recorder_that_fails_does_not_end_training(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    recorder, model = Failing(), TinyModel(network(2))
    train(tmp_path, model, SMALL, 2, {}, callbacks=[recorder], test=False)
    assert len(model.losses) == 8
    assert (recorder.num_batches, recorder.num_released) == (3, 1)
    assert caplog.text.count("Failing stopped recording: OSError: no space left on device") == 1


def test_recorders_on_unwritable_folder_do_not_end_training(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "run").write_text("a file where the run's folder should be")

    def losses(config: dict) -> list[float]:
        pl.seed_everything(0, verbose=False)
        model = TinyModel(network(2))
        train(tmp_path / "run", model, SMALL, 2, config)
        return model.losses

    assert losses(CONFIG) == losses({})
    for name in ("TensorDebugger", "SystemProfiler", "PredictionRecorder", "ImageHasher"):
        assert f"{name} stopped recording" in caplog.text
