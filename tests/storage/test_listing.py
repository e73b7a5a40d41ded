import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.storage.base import ObjectInfo
from dogbreed.storage.listing import Listing, PackedStrings

NAMES = st.text(min_size=1, max_size=8).filter(lambda name: "/" not in name and name[0] != ".")


@given(st.lists(NAMES, unique=True))
def test_keys_are_the_sorted_strings(names: list[str]) -> None:
    entries = [ObjectInfo(f"a/{name}.jpg", len(name), "e") for name in names]
    listing = Listing.pack(entries)
    expected = sorted(entries, key=lambda entry: entry.key.encode("utf-8", "surrogateescape"))
    assert listing.keys == [entry.key for entry in expected]
    assert listing.sizes.tolist() == [entry.size for entry in expected]
    assert listing.fingerprint == Listing.pack(reversed(entries)).fingerprint


def test_keys_are_a_sequence() -> None:
    keys = Listing.pack(ObjectInfo(f"a/{number}.jpg", 1, "e") for number in range(9)).keys
    assert isinstance(keys, PackedStrings)
    assert list(keys[7:]) == ["a/7.jpg", "a/8.jpg"]
    assert keys[-1] == "a/8.jpg"
    assert "a/3.jpg" in keys
    assert keys != [*keys[:8], "a/9.jpg"]
    assert pickle.loads(pickle.dumps(keys)) == keys


def test_names_that_are_not_utf8_round_trip() -> None:
    odd = b"a/\xff.jpg".decode("utf-8", "surrogateescape")
    assert Listing.pack([ObjectInfo(odd, 1, "e")]).keys[0] == odd


MILLION = """
import os, sys, numpy as np, psutil
from multiprocessing import get_context
from dogbreed.data.index import build_index
from dogbreed.storage.base import ObjectInfo
from dogbreed.storage.listing import Listing, PackedStrings
from dogbreed.data.dataset import ImageStream
from dogbreed.data.sampler import BatchSampler

def total(children=()):
    return sum(psutil.Process(pid).memory_full_info().pss for pid in (os.getpid(), *children)) / 2**20

def read(index, ready, done):
    order = BatchSampler(len(index.splits["train"]), 64, True, 0)
    keys = index.splits["train"].keys
    for batch in order.batches(0)[::2]:
        for position in batch:
            keys[position]
    ready.release(); done.acquire()

names = (f"train/{n % 1000:04d}.Some_breed_name/photograph_{n:08d}.jpg" for n in range(1_000_000))
entries = (ObjectInfo(name, 100, f"{n:032x}") for n, name in enumerate(names))
before = total()
rss = psutil.Process().memory_info().rss / 2**20
context = get_context("fork")
ready, done = context.Semaphore(0), context.Semaphore(0)
index = build_index(entries, "DATA", val_fraction=0, test_fraction=0, seed=0)
# Not ru_maxrss: that begins with what the parent had.
peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024 - rss
workers = [context.Process(target=read, args=(index, ready, done)) for _ in range(2)]
[worker.start() for worker in workers]; [ready.acquire() for _ in workers]
print(round(peak), round(total([worker.pid for worker in workers]) - before))
[done.release() for _ in workers]; [worker.join() for worker in workers]
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_million_keys_use_little_memory_in_all_processes() -> None:
    done = subprocess.run([sys.executable, "-c", MILLION], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak_mb, lasting_mb = map(int, done.stdout.split())
    print(f"1,000,000 keys: {peak_mb} MB while listing, {lasting_mb} MB with two workers that read them")
    assert peak_mb < 300
    assert lasting_mb < 300
