import asyncio
import io

import numpy as np
import pytest
from PIL import Image

from dogbreed.data.index import build_index
from dogbreed.errors import UserError
from dogbreed.labels import parse_class
from dogbreed.storage.base import ImageError
from dogbreed.storage.demo import DemoStore


def get(store: DemoStore, key: str) -> bytes:
    return bytes(asyncio.run(store.fetch(key)).data)


def test_counts_and_size_are_read_from_the_url() -> None:
    store = DemoStore.from_url("demo://?classes=3&train=4&valid=2&test=0&size=24")
    keys = [entry.key for entry in store.list_objects()]
    assert len(keys) == 3 * 6
    assert not any(key.startswith("test/") for key in keys)
    assert Image.open(io.BytesIO(get(store, keys[0]))).size == (24, 24)
    assert DemoStore.from_url("demo://").classes == 8


def test_same_key_has_the_same_bytes() -> None:
    one, other = DemoStore.from_url("demo://?size=32"), DemoStore.from_url("demo://?size=32&train=99")
    keys = [entry.key for entry in one.list_objects()]
    assert [get(one, key) for key in keys[:20]] == [get(other, key) for key in keys[:20]]
    assert len({get(one, key) for key in keys}) == len(keys)


def test_breed_names_are_distinct_and_plausible() -> None:
    folders = {entry.key.split("/")[1] for entry in DemoStore.from_url("demo://?classes=80&train=1").list_objects()}
    assert len(folders) == 80
    assert all(parse_class(folder).name != folder for folder in folders)
    assert len({parse_class(folder).name for folder in folders}) == 80


def test_mean_images_of_breeds_differ() -> None:
    """Colour alone does not identify a breed, but every two breeds differ in something."""
    from dogbreed.storage.demo import _breed

    looks = {(round(b.hue, 3), b.pattern, b.outline) for b in map(_breed, range(80))}
    assert len(looks) == 80


def test_images_vary_within_a_breed() -> None:
    store = DemoStore.from_url("demo://?train=20&size=32")
    keys = [entry.key for entry in store.list_objects() if "/001." in entry.key][:20]
    images = np.stack([np.asarray(Image.open(io.BytesIO(get(store, key)))) for key in keys])
    assert images.astype(float).std(axis=0).mean() > 25


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("demo://?clases=3", "no setting 'clases'; did you mean classes?"),
        ("demo://?classes=1", "classes=1 must be a whole number from 2 to 80"),
        ("demo://?train=-1", "train=-1 must be a whole number from 1 to 10000"),
        ("demo://?train=many", "train=many must be"),
        ("demo://?train=", "train= must be"),
        ("demo://?size=²", "size=² must be"),
        ("demo://breeds", "type demo://"),
    ],
)
def test_invalid_setting_error_names_the_mistake(url: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        DemoStore.from_url(url)
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["train/999.None/1.jpg", "nowhere.jpg", "train/dog/1.jpg"])
def test_unknown_key_is_an_image_error(key: str) -> None:
    with pytest.raises(ImageError):
        get(DemoStore.from_url("demo://"), key)


def test_demo_store_can_be_indexed() -> None:
    store = DemoStore.from_url("demo://?train=30&valid=0")
    index = build_index(store.list_objects(), store.url, val_fraction=0.1, test_fraction=0.1, seed=0)
    assert [len(index.splits[name]) for name in ("train", "val", "test")] == [27 * 8, 3 * 8, 20 * 8]
