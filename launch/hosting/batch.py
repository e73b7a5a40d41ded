"""Every image of a folder or S3 prefix to an endpoint, many at a time, and the answers into a CSV file.

The file is the memory: an image that has a line in it is not asked again, so whatever ended a run, the same command
goes on with it.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from dogbreed.data.classes import ClassName, parse_class
from dogbreed.errors import UserError
from dogbreed.storage.base import ImageError, Store
from dogbreed.storage.listing import pack
from dogbreed.storage.retry import RetryingFetcher
from launch.hosting.invoke import Answer, Refused

COLUMNS = ("key", "label", "class_name", "confidence", "top_k", "reason", "model")
MAX_FAILURES = 10
"""Images one after another that the endpoint fails on: then it is not the images."""


class Image(NamedTuple):
    """One object to ask about."""

    key: str
    """Below the store's URL."""
    place: str
    """URL and key: what the CSV calls it."""
    size: int
    """Bytes."""


def list_images(store: Store) -> list[Image]:
    """Returns the images under the store's URL, sorted by key.

    Raises:
        UserError: it cannot be listed, or there are none.
    """
    listing = pack(store.entries())
    if not len(listing):
        raise UserError(f"{store.url} has no images (files that end in .jpg, .jpeg, .png, .webp and the like)")
    base = store.url.rstrip("/")
    return [Image(key, f"{base}/{key}", int(size)) for key, size in zip(listing.keys, listing.sizes, strict=True)]


def open_csv(path: Path, model: str) -> tuple[TextIO, set[str]]:
    """Returns the CSV file, to be written on, and the places that it has lines about.

    A last line that was cut off is taken away.

    Args:
        path: of the file; it need not be there yet.
        model: what answers now.

    Raises:
        UserError: the file is another kind of file, or holds answers of another model, or cannot be written. It is
            left as it is.
    """
    done: set[str] = set()
    try:
        if path.exists() and path.stat().st_size and not _is_cut_header(path):
            for row in read_csv(path):
                if row["model"] != model:
                    raise UserError(f"{path} has answers of model {row['model']}: remove it, or give output=OTHER.csv")
                done.add(row["key"])
        _cut_to_whole_lines(path)
        file = path.open("a", newline="", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"output={path} cannot be written: {error.strerror}") from None
    if not path.stat().st_size:
        csv.writer(file).writerow(COLUMNS)
    return file, done


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    """Yields the whole lines of a CSV file of answers.

    Raises:
        UserError: it is another kind of file.
    """
    with path.open(newline="\n", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.DictReader(line for line in file if line.endswith("\n"))
        try:
            ours = tuple(rows.fieldnames or ()) == COLUMNS
        except csv.Error:  # a line that is too long, or bytes that no text has
            ours = False
        if not ours:
            raise UserError(f"{path} is no file of predictions: remove it, or give output=OTHER.csv")
        yield from rows


def _is_cut_header(path: Path) -> bool:
    header = ",".join(COLUMNS).encode()
    with path.open("rb") as file:
        return (header + b"\r").startswith(file.read(len(header) + 2))


def _cut_to_whole_lines(path: Path) -> None:
    if path.is_file():  # not a pipe
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


async def ask_all(
    images: Sequence[Image],
    store: Store,
    ask: Callable[[bytes], Answer],
    write: Callable[[Image, Answer | str], None],
    *,
    in_flight: int,
    stopped: Callable[[], bool],
) -> None:
    """Asks about every image, `in_flight` at a time, and hands each answer, or the reason for none, to `write`.

    Args:
        images: of the store.
        store: where they lie.
        ask: blocks until there is an answer; called in threads.
        write: called in this thread, in the order in which the answers come.
        in_flight: how many are fetched or asked at a time.
        stopped: whether to begin no other.

    Raises:
        UserError: the store cannot be read any more, or the endpoint fails on everything.
        ClientError: the endpoint cannot be asked any more.
    """
    loop, patience, waiting, failures = asyncio.get_running_loop(), RetryingFetcher(store), iter(images), 0

    async def work(threads: ThreadPoolExecutor) -> None:
        nonlocal failures
        for image in waiting:
            if stopped():
                return
            try:
                content = await patience.fetch(image.key, image.size)
                write(image, await loop.run_in_executor(threads, ask, bytes(content.data)))
                failures = 0
            except ImageError as error:
                write(image, str(error))
            except Refused as error:
                failures = 0 if error.fault_of_image else failures + 1
                if failures > MAX_FAILURES:
                    raise UserError(f"the endpoint fails on every image; the last time: {error}") from None
                write(image, str(error))

    with ThreadPoolExecutor(in_flight) as threads:
        workers = [asyncio.ensure_future(work(threads)) for _ in range(min(in_flight, len(images)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()


def row(image: Image, answer: Answer | str, model: str) -> list[Any]:
    """Returns the line of the CSV about an image."""
    if isinstance(answer, str):
        return [image.place, "", "", "", "", answer, model]
    top = json.dumps([[g.label, g.confidence] for g in answer.top], ensure_ascii=False) if answer.top else ""
    label, name, confidence = answer.best
    return [image.place, label, name, "" if confidence is None else f"{confidence:.6f}", top, "", model]


def accuracy(rows: Sequence[dict[str, str]]) -> tuple[int, int] | None:
    """Returns how many answers are right and how many there are, by the class folders that the images lie in.

    None where the folders are not classes of the model: where fewer than half of them were ever among its answers.
    """
    readable = [row for row in rows if row["label"] and "/" in row["key"]]
    answered = [(parse_class(row["key"].split("/")[-2]), row) for row in readable]
    folders = {folder for folder, _ in answered}
    said = {str(label): "" for row in readable if row["top_k"] for label, _ in json.loads(row["top_k"])}
    said |= {row["label"]: row["class_name"] for row in readable}
    known = [folder for folder in folders if folder.label in said and _is(folder, folder.label, said[folder.label])]
    if not folders or 2 * len(known) < len(folders):
        return None
    return sum(_is(folder, row["label"], row["class_name"]) for folder, row in answered), len(answered)


def _is(folder: ClassName, label: str, name: str) -> bool:
    """Returns whether a folder is that of a class; two data sets may number theirs alike, so names count too."""
    return folder.label == label and (name in ("", folder.name) or folder.name == folder.label)
