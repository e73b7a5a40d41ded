"""Retries on a throttling, slow or failing store: no available image is lost, and every wait is bounded."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.proxy import Proxy, fail_share
from dogbreed import ImageDataModule
from dogbreed.errors import UserError
from dogbreed.input_spec import InputSpec
from dogbreed.storage import retry
from dogbreed.storage.base import ImageError, ObjectBody, ObjectInfo, TransientError
from dogbreed.storage.local import FolderStore
from dogbreed.storage.retry import RetryingFetcher, wait_for
from tests.s3_server import S3Server

Folder = Callable[[Path, Mapping[str, int]], Path]
CONFIG = {"input_size": (3, 16, 16), "interpolation": "bilinear", "crop_pct": 0.9}
SPEC = InputSpec.from_data_config(CONFIG)


@pytest.fixture
def proxy(s3_server: S3Server, write_images: Folder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the bucket `faults` with 120 training images, with short timeouts."""
    write_images(s3_server.root / "faults", {"train/a": 60, "train/b": 60})
    monkeypatch.setattr(retry, "FIRST_BACKOFF_S", 0.02)
    proxy = Proxy(s3_server.url)
    yield proxy
    proxy.close()


def module(proxy: Proxy, **options: Any) -> ImageDataModule:
    options = {"batch_size": 8, "num_workers": 0, "val_fraction": 0.0, "test_fraction": 0.0, **options}
    return ImageDataModule("s3://faults", endpoint_url=proxy.url, input_spec=SPEC, **options)


def seen(data: ImageDataModule) -> list[int]:
    return sorted(torch.cat([batch.indices for batch in data.train_dataloader()]).tolist())


@pytest.mark.parametrize("kind", ["503", "cut", "reset"])
def test_transient_failures_lose_no_image(proxy: Proxy, kind: str) -> None:
    proxy.rule = fail_share(0.2, kind)
    data = module(proxy)
    assert seen(data) == list(range(120))
    assert not data.bad_images
    assert 120 < len(proxy.gets) < 200


@pytest.mark.parametrize("kind", ["stall", "mute"])
def test_stalled_request_is_hedged_before_its_timeout(proxy: Proxy, kind: str) -> None:
    proxy.rule = lambda path, before: kind if path.endswith("05.jpg") and not before else None
    began = time.monotonic()
    data = module(proxy)
    assert seen(data) == list(range(120))
    assert time.monotonic() - began < 55  # a stall lasts 60 s
    assert 120 + 2 <= len(proxy.gets) < 200  # a slow machine hedges other requests too


def test_image_that_always_fails_is_skipped_with_its_reason(proxy: Proxy) -> None:
    proxy.rule = lambda path, before: "503" if path.endswith("a/007.jpg") else None
    data = module(proxy)
    assert len(seen(data)) == 119
    assert list(data.bad_images) == ["train/a/007.jpg"]
    assert "gave up after 8 attempts" in data.bad_images["train/a/007.jpg"]
    assert "SlowDown" in data.bad_images["train/a/007.jpg"]
    with pytest.raises(UserError, match=r"^train/a/007.jpg: gave up after 8 attempts .*; data.bad_images=skip"):
        seen(module(proxy, bad_images="raise"))


def test_objects_deleted_in_mid_epoch_are_skipped(proxy: Proxy, s3_server: S3Server) -> None:
    data = module(proxy)
    data.setup("fit")
    (s3_server.root / "faults/train/b/011.jpg").unlink()
    assert len(seen(data)) == 119
    assert data.bad_images == {"train/b/011.jpg": "no longer in the bucket"}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_bad_images_end_the_run(proxy: Proxy, num_workers: int) -> None:
    proxy.rule = lambda path, before: "404" if "train/a" in path else None
    data = module(proxy, num_workers=num_workers)
    with pytest.raises(UserError) as caught:
        seen(data)
    data.teardown("fit")
    assert "of s3://faults could not be read, more than data.max_bad=0.01 allows; the first: train/a" in str(
        caught.value
    )
    assert "no longer in the bucket" in str(caught.value)
    assert 10 < len(data.bad_images) <= 18
    assert len(seen(module(proxy, max_bad=0.06))) == 60
    with pytest.raises(UserError, match=r"[1-8] of 8 images"):
        seen(module(proxy, max_bad=0))


def test_unavailable_store_ends_the_run(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "GIVE_UP_S", 2.0)
    data = module(proxy)
    data.setup("fit")
    proxy.rule = fail_share(1.0, "reset")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"gave up after \d+ attempts in \d+ s"):
        seen(data)
    assert time.monotonic() - began < 120


def test_credentials_are_renewed_in_mid_epoch(
    proxy: Proxy, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another process rewrites the keys of the profile, and the old ones are rejected from then on."""
    file = tmp_path / "credentials"
    right = f"[default]\naws_access_key_id={s3_server.access_key}\naws_secret_access_key={s3_server.secret_key}\n"
    file.write_text(right)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    data = module(proxy)
    data.setup("fit")
    proxy.rule = lambda path, before: "403" if len(proxy.gets) == 80 or (len(proxy.gets) > 80 and not renewed) else None
    renewed = []

    make = type(data.store).object_client

    def client(self: Any) -> Any:
        renewed.append(len(proxy.gets) > 70)
        renewed[:] = [value for value in renewed if value]
        return make(self)

    monkeypatch.setattr(type(data.store), "object_client", client)
    assert seen(data) == list(range(120))
    assert renewed == [True]


def test_killed_worker_is_one_error(tmp_path: Path, write_images: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(store: FolderStore, key: str) -> ObjectBody:
        os.kill(os.getpid(), signal.SIGKILL)
        return ObjectBody(b"", "")

    monkeypatch.setattr(FolderStore, "fetch", die)
    data = ImageDataModule(str(write_images(tmp_path, {"a": 9})), num_workers=1, input_spec=SPEC)
    with pytest.raises(UserError, match=r"data loading process died .*data.num_workers"):
        list(data.train_dataloader())


class Remote:
    """Returns scripted responses, one entry per request: seconds to wait, or an exception to raise."""

    url = "remote"

    def __init__(self, *answers: float | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    def entries(self) -> Iterator[ObjectInfo]:
        return iter(())

    def fork_is_safe(self) -> bool:
        return True

    async def fetch(self, key: str) -> ObjectBody:
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else 0.0
        if isinstance(answer, Exception):
            raise answer
        await asyncio.sleep(answer)
        return ObjectBody(key.encode(), "")


def test_hedging_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """If all requests are slow, hedging must not double the load."""
    monkeypatch.setattr(retry, "MIN_HEDGE_S", 0.01)
    store = Remote(*[0.0] * 20, *[1.0] * 100)

    async def fetch_all() -> None:
        patient = RetryingFetcher(store)
        for _ in range(20):
            await patient.fetch("k", 1)
        await asyncio.gather(*(patient.fetch("k", 1) for _ in range(60)))

    asyncio.run(fetch_all())
    assert 80 < store.asked <= 80 + 4 + 0.05 * 80


def test_other_errors_are_not_retried() -> None:
    for error in (ImageError("gone"), UserError("refused")):
        store = Remote(error)
        with pytest.raises(type(error)):
            asyncio.run(RetryingFetcher(store).fetch("k", 1))
        assert store.asked == 1


def test_throttling_backs_off_and_lost_response_is_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "FIRST_BACKOFF_S", 1.0)

    def took_s(error: TransientError) -> float:
        began = time.monotonic()
        asyncio.run(RetryingFetcher(Remote(error)).fetch("k", 1))
        return time.monotonic() - began

    assert took_s(TransientError("cut")) < retry.FIRST_BACKOFF_S / 2 < took_s(TransientError("503", is_throttled=True))


def test_timeout_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(retry, "FIRST_BACKOFF_S", 0.001)
    store = Remote(9.0, TransientError("503"), 0.0)
    assert asyncio.run(RetryingFetcher(store).fetch("k", 1)).data == b"k"
    assert store.asked == 3


def test_watchdog_names_the_key_and_gives_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(retry, "WARN_AFTER_S", 0.05)
    monkeypatch.setattr(retry, "GIVE_UP_S", 0.06)
    with caplog.at_level(logging.WARNING), pytest.raises(ImageError, match="no response for"):
        wait_for(Future(), "train/pug/1.jpg")
    assert "waiting for train/pug/1.jpg: no response" in caplog.messages[0]


def test_outage_in_mid_epoch_loses_no_image(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the attempts of an image take, shorter than GIVE_UP_S; images were answered before."""
    monkeypatch.setattr(retry, "MAX_BACKOFF_S", 0.1)
    ends: list[float] = []

    def rule(path: str, before: int) -> str | None:
        if len(proxy.gets) > 30 and not ends:
            ends.append(time.monotonic() + 4)
        return "reset" if ends and time.monotonic() < ends[0] else None

    proxy.rule = rule
    data = module(proxy)
    assert seen(data) == list(range(120))
    assert not data.bad_images
