"""Several processes that train one model: what they share, also after the backbone is unfrozen."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from dogbreed import ImageClassifier, ImageDataModule
from dogbreed.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

GRADUAL = """
import logging, sys
import pytorch_lightning as pl, torch
from dogbreed import ImageClassifier, ImageDataModule
from dogbreed.features import KeepFeatures

logging.basicConfig(level=logging.INFO)
pl.seed_everything(0, verbose=False)
data = ImageDataModule("demo://?classes=2&train=16&valid=4&test=4&size=32", batch_size=4)
model = ImageClassifier("test_resnet", data.classes, weights="random", finetune="gradual", lr=0.01)
before = {k: v.clone() for k, v in model.named_parameters()}
kept = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true", **kept)
trainer.fit(model, data)
torch.save([before, dict(model.named_parameters())], f"{sys.argv[1]}/{trainer.global_rank}.pt")

pl.seed_everything(0, verbose=False)
data = ImageDataModule("demo://?classes=2&train=16&valid=4&test=4&size=32", batch_size=4, augment=False)
model = ImageClassifier("test_resnet", data.classes, weights="random", lr=0.01)
keep = KeepFeatures(f"{sys.argv[1]}/features")
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", callbacks=[keep], **kept)
trainer.fit(model, data)
if trainer.is_global_zero:
    torch.save([model.net.get_classifier().state_dict(), trainer.callback_metrics], f"{sys.argv[1]}/head.pt")
"""


def test_an_unfrozen_backbone_is_the_same_in_every_process_and_features_are_those_of_one(tmp_path):
    script = tmp_path / "gradual.py"
    script.write_text(GRADUAL)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (before, first), (_, second) = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in "01")
    assert not [name for name in first if torch.equal(before[name], first[name])]  # the backbone learned too
    assert all(torch.equal(first[name], second[name]) for name in first)

    assert done.stderr.count("computing the features") == 3  # of train, valid and test, by one for both
    assert done.stderr.count("features of 48 pictures in") == 2
    pl.seed_everything(0, verbose=False)
    data = ImageDataModule("demo://?classes=2&train=16&valid=4&test=4&size=32", batch_size=8, augment=False)
    alone = ImageClassifier("test_resnet", data.classes, weights="random", lr=0.01)
    kept = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=1, **kept)
    trainer.fit(alone, data)
    head, metrics = torch.load(tmp_path / "head.pt", weights_only=False)
    torch.testing.assert_close(head, dict(alone.net.get_classifier().state_dict()), rtol=1e-3, atol=1e-5)
    for name in ("train/accuracy", "val/loss", "val/f1"):
        assert metrics[name].item() == pytest.approx(trainer.callback_metrics[name].item(), rel=1e-3)


@pytest.mark.parametrize("strategy", [SimpleNamespace(_ddp_kwargs={}), SimpleNamespace()])
def test_a_strategy_that_would_not_share_it_is_refused(strategy):
    model = ImageClassifier("test_resnet", ["a", "b"], weights="random", finetune="gradual")
    model.trainer = SimpleNamespace(world_size=2, strategy=strategy)
    with pytest.raises(UserError, match=r"needs trainer\.strategy=ddp_find_unused_parameters_true"):
        model.setup("fit")
