"""Asks an endpoint what images show, on this machine or at AWS.

    python -m launch.predict NAME photo.jpg [more.png ...]      a table; with --json for programs
    python -m launch.predict NAME FOLDER                        every image in it, into predictions.csv
    python -m launch.predict NAME s3://BUCKET/PREFIX output=dogs.csv in_flight=32
    python -m launch.predict NAME photo.jpg backend=sagemaker   an endpoint at AWS

What the CSV holds already is not asked again: after Ctrl-C, the same command goes on. An image that cannot be read
is a line with the reason. Where the folders are classes, the accuracy is printed. The exit status is 0 where there are
answers, 1 where a photo that was named has none or the endpoint stopped answering, 130 after Ctrl-C.
"""

from __future__ import annotations

import asyncio
import csv
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dogbreed.cli.command import run_cli
from dogbreed.errors import UserError
from dogbreed.storage.base import ImageError, open_store
from dogbreed.storage.listing import SUFFIXES
from dogbreed.storage.retry import RetryingFetcher
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors, explain_failure
from launch.hosting.batch import Image, accuracy, ask_all, list_images, open_csv, read_csv, row
from launch.hosting.endpoint_state import describe_endpoint, read_standing, unknown_endpoint
from launch.hosting.invoke import Answer, Refused, ask
from launch.runs.polling import Interrupted
from launch.spec.settings import compose
from launch.views.text import console, duration

ANSWERING = ("InService", "Updating", "SystemUpdating", "RollingBack")
"""Statuses of an endpoint that answers."""
SAY_EVERY_S = 10.0
"""Between two lines about progress, where they go to a file."""
THEN = 2
"""How many of the next classes the table names."""


def main(words: list[str]) -> int:
    """Asks about photos or a folder; returns 0, 1 where a photo has no answer, or 128 + the signal that came."""
    as_json = "--json" in words
    settings = [word for word in words if "=" in word and not Path(word).exists()]
    names = [word for word in words if word not in settings and word != "--json"]
    if len(names) < 2:
        raise UserError(
            "give an endpoint and what to ask it about: python -m launch.predict NAME photo.jpg; "
            "python -m launch.endpoints lists the endpoints"
        )
    cfg = compose("predict", settings)
    name, *targets = names
    folders = [target for target in targets if _is_folder(target)]
    if folders and (len(targets) > 1 or as_json):
        raise UserError(f"{folders[0]} is a folder: give it alone, its answers go into a CSV file (or name photos)")
    if missing := [target for target in targets if "://" not in target and not Path(target).exists()]:
        raise UserError(f"{missing[0]}: there is no such image or folder")
    with api_errors(cfg):
        client = open_backend(cfg).client()
        model = _model_behind(client, name)
    if folders:
        return _ask_about_folder(cfg, client, name, model, folders[0])
    return _ask_about_photos(cfg, name, targets, as_json)


def _is_folder(target: str) -> bool:
    if "://" in target:
        return Path(target).suffix.lower() not in SUFFIXES
    return Path(target).is_dir()


def _model_behind(client: Any, name: str) -> str:
    """Returns the name of the model that an endpoint answers with.

    Raises:
        UserError: there is no such endpoint, or it does not answer.
    """
    endpoint = describe_endpoint(client, name)
    if endpoint is None:
        raise unknown_endpoint(client, name)
    if endpoint["EndpointStatus"] not in ANSWERING:
        raise UserError(_not_answering(endpoint))
    return read_standing(client, endpoint).model_name or str(endpoint["EndpointConfigName"])


def _not_answering(endpoint: dict[str, Any]) -> str:
    name, status = endpoint["EndpointName"], endpoint["EndpointStatus"]
    reason = f" ({explain_failure(endpoint['FailureReason'])})" if "FailureReason" in endpoint else ""
    advice = "wait for it" if status == "Creating" else "python -m launch.deploy makes it anew"
    return f"endpoint {name} does not answer, it is {status}{reason}; {advice}"


def _ask_about_photos(cfg: DictConfig, name: str, targets: Sequence[str], as_json: bool) -> int:
    runtime = open_backend(cfg).runtime()

    def answer(target: str) -> Answer | str:
        try:
            return ask(runtime, name, _read(target))
        except (ImageError, Refused) as error:
            return str(error)

    with api_errors(cfg), ThreadPoolExecutor(cfg.in_flight) as threads:
        answers = dict(zip(targets, threads.map(answer, targets), strict=True))
    if as_json:
        print(json.dumps([{"image": target} | _plain(found) for target, found in answers.items()], indent=2))
    else:
        console().print(_table(answers))
    return int(any(isinstance(found, str) for found in answers.values()))


def _read(target: str) -> bytes:
    """Returns the content of one image, a file or an object in S3.

    Raises:
        ImageError: it cannot be had.
    """
    place, _, key = target.rpartition("/")
    if "://" in target:
        return bytes(asyncio.run(RetryingFetcher(open_store(place)).fetch(key, 0)).data)
    try:
        return Path(target).read_bytes()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error


def _plain(answer: Answer | str) -> dict[str, Any]:
    """Returns an answer as the endpoint gives it."""
    if isinstance(answer, str):
        return {"error": answer}
    label, name, confidence = answer.best
    top = [guess._asdict() for guess in answer.top]
    return {"predicted_label": label, "class_name": name, "confidence": confidence, "top_k": top}


def _table(answers: dict[str, Answer | str]) -> Table:
    table = Table()
    for column in ("image", "class", "label", "confidence", "then"):
        table.add_column(column, justify="right" if column == "confidence" else "left", overflow="fold")
    for target, answer in answers.items():
        if isinstance(answer, str):
            table.add_row(target, Text(answer, style="red"))
            continue
        label, name, confidence = answer.best
        then = ", ".join(f"{g.class_name} {g.confidence:.4f}" for g in answer.top[1 : 1 + THEN])
        table.add_row(target, name, label, "" if confidence is None else f"{confidence:.4f}", then)
    return table


def _ask_about_folder(cfg: DictConfig, client: Any, name: str, model: str, url: str) -> int:
    """Asks about every image that the CSV file does not hold yet; returns 0, or 128 + the signal that came."""
    out, path, store = console(), Path(cfg.output), open_store(url)
    images = list_images(store)
    file, done = open_csv(path, model)
    left = [image for image in images if image.place not in done]
    if len(left) < len(images):
        out.print(f"{len(images) - len(left)} of {len(images)} images are in {path} already", soft_wrap=True)
    again = f"; what was answered is in {path}, the same command goes on"
    began = time.monotonic()
    with file, Interrupted() as interrupted, api_errors(cfg, again), _Teller(out, len(left)) as teller:
        runtime, writer = open_backend(cfg).runtime(), csv.writer(file)

        def write(image: Image, answer: Answer | str) -> None:
            writer.writerow(row(image, answer, model))
            file.flush()
            teller.count(isinstance(answer, str))

        try:
            asking = ask_all(
                left, store, lambda content: ask(runtime, name, content), write,
                in_flight=int(cfg.in_flight), stopped=lambda: interrupted.signal is not None,
            )  # fmt: skip
            asyncio.run(asking)
        except ClientError:
            endpoint = describe_endpoint(client, name)
            if endpoint is not None and endpoint["EndpointStatus"] not in ANSWERING:
                raise UserError(_not_answering(endpoint) + again) from None
            raise
    seconds = time.monotonic() - began
    out.print(f"{teller.told} in {duration(seconds)} ({teller.done / seconds:.1f} a second)", soft_wrap=True)
    _say_accuracy(path, {image.place for image in images}, out)
    out.print(f"the answers are in {path}", soft_wrap=True)
    if interrupted.signal and teller.done < len(left):
        out.print(f"{interrupted.signal.name}: {len(left) - teller.done} are left; the same command goes on")
        return 128 + interrupted.signal
    return 0


def _say_accuracy(path: Path, places: set[str], out: Console) -> None:
    found = accuracy([line for line in read_csv(path) if line["key"] in places])
    if found is not None:
        right, total = found
        out.print(f"accuracy by their folders: {right / total:.4f} ({right} of {total})")


class _Teller:
    """Tells how far it is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, out: Console, total: int) -> None:
        self.done = self.unreadable = 0
        self._out, self._total = out, total
        self._began = self._said = time.monotonic()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> _Teller:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def count(self, unreadable: bool) -> None:
        """Counts one more image."""
        self.done += 1
        self.unreadable += unreadable
        now = time.monotonic()
        words = f"{self.done / max(now - self._began, 1e-9):.0f} a second, {self.unreadable} unreadable"
        self._bar.update(self._task, completed=self.done, description=words)
        if not self._out.is_terminal and now - self._said > SAY_EVERY_S:
            self._said = now
            self._out.print(f"{self.done} of {self._total}, {words}")

    @property
    def told(self) -> str:
        """What was done, in words."""
        more = f", {self.unreadable} of them unreadable" if self.unreadable else ""
        return f"{self.done} images{more}"


if __name__ == "__main__":
    run_cli(main, __doc__)
