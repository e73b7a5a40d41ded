"""A training stopped or killed in mid-epoch resumes at the next batch and ends with the same weights."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.proxy import Proxy
from dogbreed.cli.config import compose, resolve_defaults
from dogbreed.data.dataset import ImageStream
from dogbreed.data.index import Split
from dogbreed.data.loader import ImageLoader
from dogbreed.data.sampler import BatchSampler
from dogbreed.data.transforms import EvalTransform
from dogbreed.input_spec import InputSpec
from dogbreed.run.train import train
from dogbreed.storage.base import ObjectBody
from dogbreed.storage.local import FolderStore
from tests.s3_server import S3Server

Folder = Callable[[Path, Mapping[str, int]], Path]
COUNTS = {"train/a": 30, "train/b": 26, "valid/a": 2, "valid/b": 2, "test/a": 2, "test/b": 2}
NUM_BATCHES = 14
TINY = ["model=timm", "model.name=test_resnet", "model.weights=random", "finetune=full", "+model.kwargs.drop_rate=0.5"]
OPTIONS = [*TINY, "batch_size=4", "trainer=cpu", "epochs=3", "scheduler=cosine", "data.image_size=32", "debugger=off"]

EAGER = """
import dogbreed.callbacks.checkpoints, sys, os, signal
from dogbreed.train import main
save = dogbreed.callbacks.checkpoints.LastCheckpoint.save
def save_and_die(self, trainer):
    save(self, trainer)
    if trainer.global_step == STEP:
        os.kill(os.getpid(), signal.SIGKILL)
dogbreed.callbacks.checkpoints.LastCheckpoint.save = save_and_die
main(sys.argv[1:])
"""


TERMINATED = """
import os, signal, sys
from dogbreed.models.classifier import ImageClassifier
from dogbreed.train import main
step = ImageClassifier.training_step
def step_and_terminate(self, *given):
    if self.trainer.global_step == STEP:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *given)
ImageClassifier.training_step = step_and_terminate
sys.exit(main(sys.argv[1:]))
"""
"""Sends SIGTERM in the middle of the second epoch, independent of its speed."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, write_images: Folder) -> Path:
    return write_images(tmp_path_factory.mktemp("resume"), COUNTS)


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights of an uninterrupted training from a folder."""
    out = tmp_path_factory.mktemp("whole")
    run(out, *local(root))
    return last(out)["state_dict"]


def local(root: Path, num_workers: int = 0) -> list[str]:
    return ["data=folder", f"data.url={root}", f"data.num_workers={num_workers}"]


def run(out: Path, *overrides: str) -> dict[str, Any]:
    return train(resolve_defaults(compose("train", [*OPTIONS, f"output_dir={out}", *overrides])))


def last(out: Path) -> dict[str, Any]:
    return torch.load(out / "checkpoints/last.ckpt", weights_only=True)


def position(out: Path) -> tuple[int, int]:
    state = last(out)["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
    return state["epoch"], state["batches"]


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.fixture
def proxy(s3_server: S3Server, root: Path) -> Iterator[Proxy]:
    link = s3_server.root / "resume"
    if not link.exists():
        link.symlink_to(root)
    proxy = Proxy(s3_server.url)
    yield proxy
    proxy.close()


def test_sigterm_in_mid_epoch_resumes_from_s3(tmp_path: Path, proxy: Proxy, whole: dict[str, Any]) -> None:
    remote = ["data=s3", "data.url=s3://resume", f"data.endpoint_url={proxy.url}"]
    command = [
        sys.executable,
        "-c",
        TERMINATED.replace("STEP", str(NUM_BATCHES + 5)),
        *OPTIONS,
        *remote,
        "data.num_workers=2",
    ]
    with subprocess.Popen([*command, f"output_dir={tmp_path}"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.read()
        assert process.wait(timeout=120) == 143
    epoch, given = position(tmp_path)
    assert epoch == 1
    assert 0 < given < NUM_BATCHES
    proxy.gets.clear()
    run(tmp_path, *remote, "data.num_workers=0", f"resume_from={tmp_path}/checkpoints/last.ckpt")
    assert_same(last(tmp_path)["state_dict"], whole)
    left = sum(map(len, BatchSampler(56, 4, True, 0).batches(1)[given:]))
    assert sum(path.startswith("/resume/train/") for path in proxy.gets) == left + 56
    shown_twice = [path for path in proxy.gets[:left] if proxy.gets[:left].count(path) > 1]
    assert not shown_twice


def test_kill_after_a_checkpoint_resumes(tmp_path: Path, root: Path, whole: dict[str, Any]) -> None:
    step = NUM_BATCHES + 5
    command = [sys.executable, "-c", EAGER.replace("STEP", str(step)), *OPTIONS, *local(root), "checkpoint_s=0"]
    command += [f"output_dir={tmp_path}"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert position(tmp_path) == ((step - 1) // NUM_BATCHES, (step - 1) % NUM_BATCHES + 1)
    run(tmp_path, *local(root, num_workers=1), f"resume_from={tmp_path}/checkpoints/last.ckpt")
    assert_same(last(tmp_path)["state_dict"], whole)


class CountingStore(FolderStore):
    """A folder that records the fetched keys."""

    async def fetch(self, key: str) -> ObjectBody:
        with (self.root / "fetched").open("a") as file:
            file.write(f"{key}\n")
        return await super().fetch(key)


def loader(root: Path, num_workers: int = 0, batch_size: int = 4, fingerprint: str = "f") -> ImageLoader:
    store = CountingStore("here", root)
    entries = sorted(entry for entry in store.list_objects() if entry.key.startswith("train/"))
    numbers = torch.zeros(len(entries), dtype=torch.int64).numpy()
    split = Split([entry.key for entry in entries], numbers, numbers)
    transform = EvalTransform(InputSpec(height=8, width=8))
    stream = ImageStream(store, split, BatchSampler(len(entries), batch_size, True, 0), transform)

    def report(key: str, reason: str) -> None:
        raise AssertionError(reason)

    return ImageLoader(stream, num_workers, report, fingerprint=fingerprint)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (1, 3)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
def test_loader_resumes_with_any_number_of_workers(root: Path, before: int, after: int) -> None:
    (root / "fetched").unlink(missing_ok=True)
    whole = [batch.indices.tolist() for batch in loader(root)]
    first = loader(root, before)
    batches = iter(first)
    seen = [next(batches).indices.tolist() for _ in range(5)]
    state = first.state_dict()
    batches.close()
    first.close()
    (root / "fetched").unlink()
    second = loader(root, after)
    second.load_state_dict(state)
    assert second.state_dict() == state
    rest = [batch.indices.tolist() for batch in second]
    assert seen + rest == whole
    assert len((root / "fetched").read_text().splitlines()) == sum(map(len, rest))
    assert second.state_dict()["batches"] == len(second)
    assert next(iter(second)).indices.tolist() == second.stream.sampler.batches(1)[0].tolist()
    second.close()


def test_resume_after_a_finished_epoch_starts_the_next(root: Path) -> None:
    first, second = loader(root), loader(root)
    list(first)
    second.load_state_dict(first.state_dict())
    assert [batch.indices.tolist() for batch in second] == [batch.tolist() for batch in first.stream.sampler.batches(1)]


def test_changed_data_is_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = loader(root)
    batches = iter(first)
    next(batches)
    state = first.state_dict()
    with caplog.at_level(logging.WARNING):
        loader(root).load_state_dict(state)
        assert not caplog.messages
        loader(root, fingerprint="g").load_state_dict(state)
        loader(root, batch_size=8).load_state_dict(state)
    assert "(fingerprint f is now g): epoch 0 continues after batch 1 in a new order" in caplog.messages[0]
    assert "(batch_size 4 is now 8)" in caplog.messages[1]
