import io
import pickle
import threading
from collections.abc import Callable, Mapping
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.data.augment import RandAugmentTransform
from dogbreed.data.dataset import ImageStream
from dogbreed.data.index import Split
from dogbreed.data.loader import ImageLoader
from dogbreed.data.sampler import BatchSampler
from dogbreed.data.transforms import EvalTransform, TrainTransform
from dogbreed.errors import UserError
from dogbreed.input_spec import InputSpec
from dogbreed.storage.base import ObjectBody, Store
from dogbreed.storage.local import FolderStore

FORMAT = InputSpec(height=16, width=16)


@given(num_images=st.integers(1, 500), batch_size=st.integers(1, 64), world_size=st.integers(1, 5))
def test_sampler_yields_every_image_once_in_equal_shares(num_images: int, batch_size: int, world_size: int) -> None:
    if num_images < world_size:
        return
    seen: list[int] = []
    for rank in range(world_size):
        order = BatchSampler(num_images, batch_size, True, 0, rank, world_size)
        batches = order.batches(epoch=3)
        assert len(batches) == len(order) == -(-num_images // (batch_size * world_size))
        assert all(min(2, batch_size) <= len(batch) + 1 <= batch_size + 1 for batch in batches)
        seen += np.concatenate(batches).tolist()
    assert sorted(seen) == list(range(num_images))


@given(num_images=st.integers(2, 300), batch_size=st.integers(3, 64))
def test_sampler_yields_no_batch_of_one(num_images: int, batch_size: int) -> None:
    sizes = [len(batch) for batch in BatchSampler(num_images, batch_size, True, 0).batches(0)]
    assert min(sizes) >= min(2, num_images)
    assert sizes[:-2] == [batch_size] * len(sizes[:-2])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 20), st.integers(1, 4), st.integers(0, 9))
def test_balanced_sampler_yields_classes_equally_often(
    counts: list[int], batch_size: int, world_size: int, epoch: int
) -> None:
    labels = np.random.default_rng(0).permutation(
        np.repeat(np.arange(len(counts)) * 2, counts)
    )  # every second class is empty
    if len(labels) < world_size:
        return
    orders = [BatchSampler(len(labels), batch_size, True, 0, rank, world_size, labels) for rank in range(world_size)]
    batches = [order.batches(epoch) for order in orders]
    assert {len(own) for own in batches} == {len(orders[0])}
    shown = np.concatenate([batch for own in batches for batch in own])
    each = -(-len(labels) // len(counts))
    assert np.unique(labels[shown], return_counts=True)[1].tolist() == [each] * len(counts)
    times = np.bincount(shown, minlength=len(labels))
    for number in range(len(counts)):
        own = times[labels == 2 * number]
        assert own.max() - own.min() <= 1
    together = np.concatenate([batch for round_ in zip(*batches, strict=True) for batch in round_])
    alone = np.concatenate(BatchSampler(len(labels), batch_size, True, 0, labels=labels).batches(epoch))
    assert together.tolist() == alone.tolist()


def test_order_depends_only_on_seed_and_epoch() -> None:
    def flat(seed: int, epoch: int, world_size: int = 1) -> list[int]:
        ranks = [BatchSampler(100, 10, True, seed, rank, world_size).batches(epoch) for rank in range(world_size)]
        return [int(index) for round_ in zip(*ranks, strict=True) for batch in round_ for index in batch]

    assert flat(0, 0) == flat(0, 0)
    assert flat(0, 0) != flat(0, 1)
    assert flat(0, 0) != flat(1, 0)
    assert flat(0, 0) == flat(0, 0, world_size=2)
    assert BatchSampler(5, 10, False, 0).batches(7)[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("world_size", [1, 3])
def test_repeats_number_the_samples_of_an_image(world_size: int) -> None:
    labels = np.repeat([0, 1], [3, 29])
    samplers = [BatchSampler(32, 4, True, 0, rank, world_size, labels) for rank in range(world_size)]
    pairs = [
        (image, repeat)
        for sampler in samplers
        for images, repeats in zip(sampler.batches(2), sampler.repeats(2), strict=True)
        for image, repeat in zip(images.tolist(), repeats.tolist(), strict=True)
    ]
    assert len(set(pairs)) == len(pairs) == 32
    assert {repeat for image, repeat in pairs if image < 3} == set(range(6))
    assert not any(repeats.any() for repeats in BatchSampler(32, 4, True, 0).repeats(2))


Folder = Callable[[Path, Mapping[str, int]], Path]


@pytest.fixture
def folder(tmp_path: Path, write_images: Folder) -> FolderStore:
    return FolderStore("here", write_images(tmp_path, {"a": 25, "b": 18}))


def stream(store: Store, batch_size: int = 5, shuffle: bool = True, train: bool = True) -> ImageStream:
    entries = sorted(store.list_objects())
    labels = np.array([ord(entry.key[0]) - ord("a") for entry in entries], dtype=np.int64)
    split = Split([e.key for e in entries], labels, np.array([e.size for e in entries], dtype=np.int64))
    transform = TrainTransform(FORMAT) if train else EvalTransform(FORMAT)
    return ImageStream(store, split, BatchSampler(len(entries), batch_size, shuffle, 0), transform)


def ignore(key: str, reason: str) -> None:
    raise AssertionError(f"{key}: {reason}")


@pytest.mark.parametrize("transform", [TrainTransform(FORMAT), RandAugmentTransform(FORMAT)], ids=["crop", "changes"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_repeated_image_gets_another_crop(tmp_path: Path, write_images: Folder, num_workers: int, transform) -> None:
    data = stream(FolderStore("here", write_images(tmp_path, {"a": 1, "b": 9})))
    sampler = BatchSampler(10, 5, True, 0, labels=data.split.labels)
    loader = ImageLoader(ImageStream(data.store, data.split, sampler, transform), num_workers, ignore)
    crops = [image for batch in loader for image, label in zip(batch.images, batch.labels, strict=True) if label == 0]
    loader.close()
    assert len(crops) == 5 == len({crop.numpy().tobytes() for crop in crops})


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_batches_are_the_same_for_any_number_of_workers(folder: FolderStore, num_workers: int) -> None:
    alone = ImageLoader(stream(folder), 0, ignore)
    shared = ImageLoader(stream(folder), num_workers, ignore)
    epochs = []
    for _ in range(2):  # the second time through the same worker processes
        expected, found = list(alone), list(shared)
        assert len(expected) == len(found) == len(alone) == len(shared) == 9
        for one, other in zip(expected, found, strict=True):
            assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
        epochs.append(expected)
    assert not torch.equal(epochs[0][0].indices, epochs[1][0].indices)
    shared.close()


def test_pixels_of_an_image_do_not_depend_on_its_batch(folder: FolderStore) -> None:
    def by_index(batch_size: int) -> dict[int, torch.Tensor]:
        batches = list(ImageLoader(stream(folder, batch_size), 0, ignore))
        return {int(i): image for batch in batches for i, image in zip(batch.indices, batch.images, strict=True)}

    small, large = by_index(3), by_index(16)
    assert small.keys() == large.keys() == set(range(43))
    assert all(torch.equal(small[index], large[index]) for index in small)


def test_batch_fields_are_consistent(folder: FolderStore) -> None:
    source = stream(folder, shuffle=False, train=False)
    batch = next(iter(ImageLoader(source, 0, ignore)))
    assert batch.images.shape == (5, 3, 16, 16)
    assert batch.images.dtype == torch.uint8
    assert batch.labels.tolist() == [0] * 5
    assert batch.indices.tolist() == [0, 1, 2, 3, 4]


def test_epoch_is_read_at_each_iteration(folder: FolderStore) -> None:
    asked = iter([4, 4, 0])
    loader = ImageLoader(stream(folder), 1, ignore, epoch=lambda: next(asked))
    orders = [torch.cat([batch.indices for batch in loader]).tolist() for _ in range(3)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[2] == np.concatenate(stream(folder).sampler.batches(0)).tolist()


def test_interrupted_epoch_does_not_affect_the_next(folder: FolderStore) -> None:
    for num_workers in (0, 2):
        loader = ImageLoader(stream(folder), num_workers, ignore, epoch=lambda: 1)
        whole = torch.cat([batch.indices for batch in loader]).tolist()
        batches = iter(loader)
        next(batches)
        batches.close()
        assert torch.cat([batch.indices for batch in loader]).tolist() == whole


def test_interrupted_epoch_leaves_no_thread(folder: FolderStore) -> None:
    """Without workers, threads of this process decode a few images ahead."""
    batches = iter(ImageLoader(stream(folder), 0, ignore))
    next(batches)
    assert "decode_0" in {thread.name for thread in threading.enumerate()}
    batches.close()
    for thread in [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "fetch"))]:
        thread.join(5)
        assert not thread.is_alive()


def test_kept_batches_stay_unchanged(folder: FolderStore) -> None:
    """Workers reuse memory only after its batch has been freed."""
    expected = [batch.images for batch in ImageLoader(stream(folder, batch_size=2), 0, ignore)]
    kept = [batch.images for batch in ImageLoader(stream(folder, batch_size=2), 1, ignore)]
    assert len(kept) == 22
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(kept, expected, strict=True))


def test_stream_can_be_pickled(folder: FolderStore) -> None:
    source = stream(folder)
    source.start_at(3)
    copy = pickle.loads(pickle.dumps(source))
    first, second = next(iter(source)), next(iter(copy))
    assert torch.equal(first.images, second.images)
    assert first.indices.tolist() == second.indices.tolist()
    ForkingPickler(io.BytesIO()).dump(source)


def spoil(root: Path) -> dict[str, str]:
    """Damages four images; returns a part of the expected reason of each."""
    good = (root / "a/000.jpg").read_bytes()
    (root / "a/001.jpg").write_bytes(good[: len(good) // 2])
    (root / "a/002.jpg").write_text("not an image")
    (root / "b/003.jpg").write_bytes(b"")
    (root / "b/004.jpg").unlink()
    return {"a/001.jpg": "JPEG", "a/002.jpg": "not a readable image", "b/003.jpg": "empty", "b/004.jpg": "No such"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_images_are_skipped_and_reported(folder: FolderStore, num_workers: int) -> None:
    source = stream(folder, shuffle=False)
    expected = spoil(folder.root)
    reports: dict[str, str] = {}
    batches = list(ImageLoader(source, num_workers, reports.__setitem__))
    assert reports.keys() == expected.keys()
    assert all(part in reports[key] for key, part in expected.items())
    assert len(batches) == 9
    assert len(batches[0].images) == len(batches[0].labels) == len(batches[0].indices) == 3
    left = {source.split.keys[int(index)] for batch in batches for index in batch.indices}
    assert left == set(source.split.keys) - expected.keys()
    for batch in batches:
        assert batch.labels.tolist() == source.split.labels[batch.indices].tolist()


def test_batch_without_a_readable_image_is_empty(folder: FolderStore) -> None:
    for path in sorted((folder.root / "a").iterdir())[:5]:
        path.write_bytes(b"broken")
    batches = list(ImageLoader(stream(folder, shuffle=False), 0, lambda key, reason: None))
    assert [len(batch.labels) for batch in batches[:2]] == [0, 5]
    assert batches[0].images.shape == (0, 3, 16, 16)
    assert batches[0].labels.dtype == batches[0].indices.dtype == torch.int64


def test_epoch_without_a_readable_image_is_an_error(folder: FolderStore) -> None:
    for path in folder.root.glob("*/*"):
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match="none of 43 images of here could be read"):
        list(ImageLoader(stream(folder), 0, lambda key, reason: None))


class LostStore(FolderStore):
    """A store that fails after some images."""

    async def fetch(self, key: str) -> ObjectBody:
        if key.startswith("b"):
            raise UserError(f"{key} cannot be read: no network")
        return await super().fetch(key)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_failing_store_is_one_error(folder: FolderStore, num_workers: int) -> None:
    loader = ImageLoader(stream(LostStore("here", folder.root), shuffle=False), num_workers, ignore)
    with pytest.raises(UserError, match=r"^b/000.jpg cannot be read: no network$"):
        list(loader)
