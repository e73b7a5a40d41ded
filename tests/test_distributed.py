"""Several processes that train one model: what they share, also after the backbone is unfrozen."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dogbreed import ImageClassifier
from dogbreed.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

GRADUAL = """
import sys
import pytorch_lightning as pl, torch
from dogbreed import ImageClassifier, ImageDataModule

pl.seed_everything(0, verbose=False)
data = ImageDataModule("demo://?classes=2&train=16&valid=4&test=4&size=32", batch_size=4)
model = ImageClassifier("test_resnet", data.classes, weights="random", finetune="gradual", lr=0.01)
before = {k: v.clone() for k, v in model.named_parameters()}
kept = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true", **kept)
trainer.fit(model, data)
torch.save([before, dict(model.named_parameters())], f"{sys.argv[1]}/{trainer.global_rank}.pt")
"""


def test_an_unfrozen_backbone_is_the_same_in_every_process(tmp_path):
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


@pytest.mark.parametrize("strategy", [SimpleNamespace(_ddp_kwargs={}), SimpleNamespace()])
def test_a_strategy_that_would_not_share_it_is_refused(strategy):
    model = ImageClassifier("test_resnet", ["a", "b"], weights="random", finetune="gradual")
    model.trainer = SimpleNamespace(world_size=2, strategy=strategy)
    with pytest.raises(UserError, match=r"needs trainer\.strategy=ddp_find_unused_parameters_true"):
        model.setup("fit")
