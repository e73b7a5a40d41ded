"""Training with several processes, and the batch size and learning rate of a step."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import timm
import torch

from dogbreed import ImageClassifier, ImageDataModule
from dogbreed.cli.config import compose, resolve_defaults
from dogbreed.errors import UserError
from dogbreed.run.distributed import TimmSyncBatchNorm, accumulation, scaled_lr
from dogbreed.run.train import train
from dogbreed.train import main
from tests.paths import ROOT

GRADUAL = """
import logging, sys
import pytorch_lightning as pl, torch
from dogbreed import ImageClassifier, ImageDataModule
from dogbreed.features import FeatureCache, FeatureDataModule

logger = logging.getLogger("dogbreed.features")
logger.setLevel(logging.INFO)
logger.addHandler(logging.StreamHandler())
pl.seed_everything(0, verbose=False)
data = ImageDataModule("demo://?classes=2&train=16&valid=4&test=4&size=32", batch_size=4)
model = ImageClassifier("test_resnet", data.classes, weights="random", finetune="gradual", lr=0.01)
data.input_spec = model.input_spec
before = {k: v.clone() for k, v in model.named_parameters()}
kept = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true", **kept)
trainer.fit(model, data)
torch.save([before, dict(model.named_parameters())], f"{sys.argv[1]}/{trainer.global_rank}.pt")

pl.seed_everything(0, verbose=False)
data = ImageDataModule("demo://?classes=2&train=16&valid=4&test=4&size=32", batch_size=4, augment=False)
model = ImageClassifier("test_resnet", data.classes, weights="random", lr=0.01)
data.input_spec = model.input_spec
features = FeatureCache(f"{sys.argv[1]}/features").load(model, data)
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", **kept)
trainer.fit(model, FeatureDataModule(data, features))
if trainer.is_global_zero:
    torch.save([model.net.get_classifier().state_dict(), trainer.callback_metrics], f"{sys.argv[1]}/head.pt")

from dogbreed.train import main
main([*sys.argv[2:], "trainer.devices=2", "+trainer.strategy=ddp", f"output_dir={sys.argv[1]}/two"])
assert not torch.distributed.is_initialized(), "threads of the process group can abort the process at its exit"
"""

STEPS = [
    "model=timm", "model.name=test_convnext", "data.url='demo://?classes=2&train=16&valid=4&test=4&size=32'",
    "trainer=cpu", "batch_size=4", "effective_batch_size=8", "lr_scaling=linear", "lr=3.2", "optimizer=sgd", "epochs=2",
    "name=steps", "debugger=off",
]  # fmt: skip


def test_two_processes_equal_one_that_accumulates(tmp_path):
    script = tmp_path / "gradual.py"
    script.write_text(GRADUAL)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, tmp_path, *STEPS],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (before, first), (_, second) = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in "01")
    assert not [name for name in first if torch.equal(before[name], first[name])]  # the backbone was trained too
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert done.stderr.count("optimizer step: 8 images (batch_size 4, processes 2, accumulated batches 1), lr 0.1") == 1

    results = train(resolve_defaults(compose("train", [*STEPS, f"output_dir={tmp_path}/one"])))
    one, two = (torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("one", "two"))
    assert results["steps"] == one["global_step"] == two["global_step"] == 2 * 32 / 8
    first, second = (state["cpu"] for state in two["callbacks"]["LastCheckpoint"]["processes"])
    assert not torch.equal(first, second)  # both processes would mix and drop the same
    for name, value in one["state_dict"].items():
        assert torch.allclose(two["state_dict"][name], value, rtol=1e-3, atol=1e-5), name
    theirs = json.loads((tmp_path / "two" / "results.json").read_text())
    assert theirs["epochs"]["1"] == pytest.approx(results["epochs"][1], rel=1e-3)

    assert done.stderr.count("computing the features") == 3  # train, val and test, once for both processes
    assert done.stderr.count("features of 48 images in") == 2
    pl.seed_everything(0, verbose=False)
    data = ImageDataModule("demo://?classes=2&train=16&valid=4&test=4&size=32", batch_size=8, augment=False)
    alone = ImageClassifier("test_resnet", data.classes, weights="random", lr=0.01)
    data.input_spec = alone.input_spec
    kept = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=1, **kept)
    trainer.fit(alone, data)
    head, metrics = torch.load(tmp_path / "head.pt", weights_only=False)
    torch.testing.assert_close(head, dict(alone.net.get_classifier().state_dict()), rtol=1e-3, atol=1e-5)
    for name in ("train/accuracy", "val/loss", "val/f1"):
        assert metrics[name].item() == pytest.approx(trainer.callback_metrics[name].item(), rel=1e-3)


def test_effective_batch_size_must_be_a_multiple(tmp_path):
    assert [accumulation(256, 32, 2), accumulation(32, 32, 1)] == [4, 1]
    with pytest.raises(UserError, match=r"effective_batch_size=100 is not a multiple .* type effective_batch_size=96"):
        accumulation(100, 16, 2)
    with pytest.raises(UserError, match="type effective_batch_size=64"):
        accumulation(8, 32, 2)
    with pytest.raises(UserError, match="exclude each other: set one"):
        main([*STEPS, "trainer.devices=1", "+trainer.accumulate_grad_batches=2", f"output_dir={tmp_path}"])


def test_scaled_lr_refers_to_256_images():
    assert [scaled_lr(0.1, rule, 1024) for rule in ("none", "sqrt", "linear")] == pytest.approx([0.1, 0.2, 0.4])
    assert scaled_lr(0.1, "linear", 64) == pytest.approx(0.025)


def test_sync_batch_norms_keep_timms_activations():
    net = timm.create_model("mobilenetv2_050", num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    before, names = net(images), list(net.state_dict())
    shared = TimmSyncBatchNorm().apply(net)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in shared.modules())
    assert torch.equal(TimmSyncBatchNorm().revert(shared)(images), before) and list(shared.state_dict()) == names


@pytest.mark.parametrize("wrapped", [SimpleNamespace(find_unused_parameters=False), SimpleNamespace()])
def test_gradual_under_a_strategy_without_its_gradients_fails(wrapped):
    model = ImageClassifier("test_resnet", ["a", "b"], weights="random", finetune="gradual")
    model.trainer = SimpleNamespace(world_size=2, model=wrapped)
    with pytest.raises(UserError, match=r"needs trainer\.strategy=ddp_find_unused_parameters_true"):
        model.on_train_start()
