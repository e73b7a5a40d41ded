"""Trainings of two processes for `test_distributed.py`, in a process of their own.

`ddp_fork` refuses to fork a process in which autograd has started threads, which any other test may have done.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn

from dogbreed.debugger.record.predictions import PredictionRecorder
from tests.debugger.tiny import CONFIG, TinyData, TinyModel, train

SMDEBUG = {"smdebug": {"enabled": True, "save_interval": 2, "collections": ["weights", "gradients", "losses"]}}


class FailingInProcess0(PredictionRecorder):
    """Fails in one of the two processes, while the other waits for it to gather predictions."""

    def _record(self, batch, pl_module, with_images):
        if pl_module.global_rank == 0:
            raise RuntimeError("out of memory")
        super()._record(batch, pl_module, with_images)


def make_network() -> nn.Sequential:
    pl.seed_everything(0, verbose=False)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, 2))


def fit(folder: Path, config: dict, callbacks: Sequence[pl.Callback] = (), **settings) -> nn.Module:
    """Trains four epochs of one step over all sixteen images, eight per process."""
    data = TinyData((8, 8), batch_size=8, val=8)
    net = make_network()
    model = TinyModel(net, optimizer="SGD", **settings)
    train(folder, model, data, 4, config, callbacks=callbacks, devices=2, strategy="ddp_fork")
    return net


def main(folder: Path, smdebug: bool) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    recorded = fit(folder / "recorded", {**CONFIG, **(SMDEBUG if smdebug else {})})
    plain = fit(folder / "plain", {})
    torch.save([recorded.state_dict(), plain.state_dict()], folder / "weights.pt")
    fit(folder / "stopped", {**CONFIG, "stop_on": ["LearningRateTooHigh"]}, lr=1e6)
    fit(folder / "failing", {}, [FailingInProcess0(folder / "failing")])


if __name__ == "__main__":
    main(Path(sys.argv[1]), smdebug=sys.argv[2] == "True")
