"""Trainings with several processes: batches of two ranks across a kill, and the memory of a worker."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from dogbreed.data.sampler import BatchSampler
from tests.paths import ROOT
from tests.s3_server import S3Server

Folder = Callable[[Path, Mapping[str, int]], Path]

TWO_RANKS = """
import json, os, signal, sys
from pathlib import Path
import pytorch_lightning as pl, torch
from dogbreed import ImageDataModule, InputSpec

root, out, run, die_at = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
SPEC = InputSpec(16, 16, crop_pct=1.0)

class Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 16 * 16, 2)
    def training_step(self, batch, _):
        if self.global_step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with (out / f"{run}-{self.global_rank}").open("a") as file:
            print(json.dumps([self.current_epoch, batch.indices.tolist()]), file=file)
        return torch.nn.functional.cross_entropy(self.layer(batch.images.flatten(1)), batch.labels)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

saved = pl.callbacks.ModelCheckpoint(out, every_n_train_steps=5, save_last=True, save_top_k=0)
quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "callbacks": [saved]}
data = ImageDataModule(str(root), batch_size=4, num_workers=1, input_spec=SPEC, val_fraction=0, test_fraction=0)
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", use_distributed_sampler=True, **quiet)
last = out / "last.ckpt"
trainer.fit(Recorder(), data, ckpt_path=last if last.exists() else None)
"""


@pytest.mark.slow
def test_two_killed_ranks_resume_at_the_next_batch(tmp_path: Path, write_images: Folder) -> None:
    root = write_images(tmp_path / "data", {"a": 40, "b": 37})
    (tmp_path / "fit.py").write_text(TWO_RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [str(tmp_path / "fit.py"), str(root), str(tmp_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    codes = [
        subprocess.run([*command, *arguments, run, die_at], env=env, capture_output=True, check=False).returncode
        for run, die_at in (("first", "7"), ("second", "-1"))
    ]
    assert codes == [1, 0]
    orders = [BatchSampler(77, 4, True, 0, rank, 2) for rank in range(2)]
    for rank, order in enumerate(orders):
        whole = [[epoch, batch.tolist()] for epoch in range(2) for batch in order.batches(epoch)]
        first, second = (
            [json.loads(line) for line in (tmp_path / f"{run}-{rank}").read_text().splitlines()]
            for run in ("first", "second")
        )
        assert first == whole[:7]
        assert second == whole[5:]  # the checkpoint is of the fifth step
    shown = [index for order in orders for batch in order.batches(0) for index in batch.tolist()]
    assert sorted(shown) == list(range(77))


THREE_EPOCHS = """
import json, sys
import psutil, torch
from dogbreed import ImageDataModule, InputSpec

options = {"input_spec": InputSpec(), "val_fraction": 0, "test_fraction": 0}
data = ImageDataModule("s3://memory", endpoint_url=sys.argv[1], num_workers=1, **options)
loader, pss = data.train_dataloader(), []
for _ in range(3):
    most = 0
    for batch in loader:
        data.on_after_batch_transfer(batch, 0)
        (worker,) = psutil.Process().children()
        most = max(most, worker.memory_full_info().pss)
    pss.append(round(most / 1e6))
data.teardown("fit")
print(json.dumps(pss))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_worker_memory_is_bounded_and_constant(s3_server: S3Server) -> None:
    """Images of 1600 x 1200 px and 2 MB fill the window to its limit of bytes."""
    folder = s3_server.root / "memory/a"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    contents = [
        simplejpeg.encode_jpeg(rng.integers(0, 256, (1200, 1600, 3), dtype=np.uint8), quality=85) for _ in range(3)
    ]
    for number in range(100):
        (folder / f"{number:03d}.jpg").write_bytes(contents[number % 3])
    done = subprocess.run(
        [sys.executable, "-c", THREE_EPOCHS, s3_server.url], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    pss_mb = json.loads(done.stdout.splitlines()[-1])
    print(f"peak memory of a worker in each epoch, MB: {pss_mb}")
    assert max(pss_mb) <= 400
    assert pss_mb[2] <= pss_mb[0] * 1.1 + 10
