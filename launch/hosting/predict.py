"""Predictions for named images, printed, and for a folder, written to a CSV file."""

from __future__ import annotations

import asyncio
import csv
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from botocore.exceptions import ClientError
from omegaconf import DictConfig
from rich.console import Console

from dogbreed.errors import UserError
from dogbreed.storage import open_store
from dogbreed.storage.base import ImageError
from dogbreed.storage.listing import IMAGE_SUFFIXES
from dogbreed.storage.retry import RetryingFetcher
from launch.backends import Backend
from launch.backends.aws.errors import api_errors
from launch.hosting.batch import Failure, ImageObject, invoke_all, list_images
from launch.hosting.endpoint_state import check_answering, get_endpoint, read_endpoint_info
from launch.hosting.invoke import InvocationError, invoke
from launch.hosting.predictions_csv import accuracy, csv_row, open_csv, read_csv
from launch.runs.polling import Interrupted
from launch.spec.prediction import Prediction
from launch.views.predictions import PredictionProgress
from launch.views.text import duration


def is_folder(target: str) -> bool:
    """Returns whether `target` is a local folder, or a URL that does not end like an image."""
    if "://" in target:
        return Path(target).suffix.lower() not in IMAGE_SUFFIXES
    return Path(target).is_dir()


def predict_images(backend: Backend, name: str, targets: Sequence[str], in_flight: int) -> dict[str, Prediction | str]:
    """Returns target (a path, or a URL in S3) to the prediction of endpoint `name`, or to why there is none.

    Only InvokeEndpoint is called, so that credentials with that single permission suffice.

    Raises:
        UserError: there is no such endpoint, or it does not answer.
    """
    runtime = backend.runtime()

    def predict(target: str) -> Prediction | str:
        try:
            return invoke(runtime, name, _read(target))
        except (ImageError, InvocationError) as error:
            return str(error)

    try:
        with ThreadPoolExecutor(in_flight) as threads:
            return dict(zip(targets, threads.map(predict, targets), strict=True))
    except ClientError:
        _check_endpoint(backend, name)
        raise


def _check_endpoint(backend: Backend, name: str, hint: str = "") -> None:
    """Raises a UserError with the reason and `hint` if the endpoint does not exist or does not answer."""
    try:
        check_answering(get_endpoint(backend.client(), name))
    except ClientError:  # these credentials may only invoke endpoints: the invocation's own error is more useful
        return
    except UserError as error:
        raise UserError(f"{error}{hint}") from None


def _read(target: str) -> bytes:
    """Returns the content of one image, a local file or an object in S3.

    Raises:
        ImageError: it cannot be read.
    """
    url, _, key = target.rpartition("/")
    if "://" in target:
        return bytes(asyncio.run(RetryingFetcher(open_store(url)).fetch(key, 0)).data)
    try:
        return Path(target).read_bytes()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error


def predict_folder(cfg: DictConfig, backend: Backend, name: str, url: str, out: Console) -> int:
    """Writes the predictions of endpoint `name` for every image under `url` to `cfg.output`; skips those already there.

    Returns:
        0, 1 if the endpoint failed on images, or 128 + the signal that stopped it.

    Raises:
        UserError: the endpoint does not answer, there are no images, or the CSV file cannot be used.
    """
    path, store = Path(cfg.output), open_store(url)
    with api_errors(cfg):
        endpoint = get_endpoint(backend.client(), name)
        check_answering(endpoint)
        model = read_endpoint_info(backend.client(), endpoint).model_name or str(endpoint["EndpointConfigName"])
    images = list_images(store)
    file, done = open_csv(path, model)
    remaining = [image for image in images if image.uri not in done]
    if len(remaining) < len(images):
        out.print(f"{len(images) - len(remaining)} of {len(images)} images are already in {path}", soft_wrap=True)
    hint = f"; the predictions so far are in {path}, the same command continues"
    started = time.monotonic()
    with file, Interrupted() as interrupted, api_errors(cfg, hint), PredictionProgress(out, len(remaining)) as progress:
        runtime, writer = backend.runtime(), csv.writer(file)

        def report(image: ImageObject, outcome: Prediction | Failure) -> None:
            if isinstance(outcome, Prediction) or outcome.is_final:
                row = outcome if isinstance(outcome, Prediction) else outcome.reason
                writer.writerow(csv_row(image.uri, row, model))
                file.flush()
            progress.advance(
                unreadable=isinstance(outcome, Failure) and outcome.is_final,
                failed=isinstance(outcome, Failure) and not outcome.is_final,
            )

        try:
            asyncio.run(invoke_all(
                remaining, store, lambda content: invoke(runtime, name, content), report,
                in_flight=int(cfg.in_flight), is_stopped=lambda: interrupted.signal is not None,
            ))  # fmt: skip
        except ClientError:
            _check_endpoint(backend, name, hint)
            raise
    seconds = time.monotonic() - started
    out.print(f"{progress.summary} in {duration(seconds)} ({progress.done / seconds:.1f} per second)", soft_wrap=True)
    _print_accuracy(path, {image.uri for image in images}, out)
    out.print(f"the predictions are in {path}", soft_wrap=True)
    if interrupted.signal and progress.done < len(remaining):
        out.print(f"{interrupted.signal.name}: {len(remaining) - progress.done} remaining; the same command continues")
        return 128 + interrupted.signal
    if progress.failed:
        out.print(f"the endpoint failed on {progress.failed} images; the same command sends them again")
    return int(progress.failed > 0)


def _print_accuracy(path: Path, uris: set[str], out: Console) -> None:
    result = accuracy([row for row in read_csv(path) if row["key"] in uris])
    if result is not None:
        correct, total = result
        out.print(f"accuracy, taking folders as classes: {correct / total:.4f} ({correct} of {total})")
