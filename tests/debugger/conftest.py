from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _one_quiet_thread():
    """Tiny networks are faster on one thread, and Lightning's hints do not apply to them."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training with one issue: 50 times as many images of one class as of another. Read only."""
    import pytorch_lightning as pl

    from tests.debugger.tiny import TinyData, TinyModel, train

    folder = tmp_path_factory.mktemp("outputs") / "imbalanced"
    pl.seed_everything(0, verbose=False)
    train(folder, TinyModel(), TinyData((500, 10), val=(60, 60), noise=0.5), 2)
    return folder


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of `finished_run` to write into."""
    return Path(shutil.copytree(finished_run, tmp_path / "copy"))
