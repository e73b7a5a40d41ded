"""Publishes images: checks them, mends what can be mended without loss, and puts them where trainings read them.

    python -m launch.publish dogImages.zip s3://BUCKET/dogImages         a zip archive to S3
    python -m launch.publish PATH/pets PATH/checked                      a folder to another folder
    python -m launch.publish https://HOST/PATH.zip s3://BUCKET/dogImages      an archive from an address
    python -m launch.publish dogImages.zip s3://BUCKET/dogImages dry_run=true        look, and write nothing there

    endpoint_url=http://HOST:PORT    an S3-compatible server instead of AWS
    delete=true                      images that lie there and are not in the source are deleted
    keep_copies=true                 images of valid and test may be in train too; else train's copies are left out

Corrupt and huge images are left out. A wrong suffix, stray bytes before a JPEG or its missing end marker are mended;
no image is ever encoded again. Everything that was left out or mended is named, in outputs/published/. What is
there already is not uploaded again: after an interruption the same command goes on. At last a manifest is written
there, with which trainings need not list the images. A download is kept in outputs/downloads/.
Exit status: 0 published, 1 the connection or a disk gave up, 2 a mistake in what was typed, 130 after Ctrl-C.
"""

from __future__ import annotations

import csv
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from yaml import YAMLError

from dogbreed.cli.command import run_cli
from dogbreed.errors import UserError, did_you_mean
from dogbreed.publishing.download import TransferError, download
from dogbreed.publishing.plan import Plan, Remark, candidates, check_all, counts, make_plan
from dogbreed.publishing.sources import FolderSource, Source, open_source
from dogbreed.publishing.targets import FolderTarget, Target, open_target
from dogbreed.publishing.transfer import Work, carry_out, compare, look, seal
from dogbreed.storage.credentials import advice
from launch.views.text import console, duration

OUTPUTS = Path("outputs")

SHOWN = 8
"""Files of each kind that are named on the screen; the report names all."""


@dataclass
class Settings:
    """What may be given as KEY=VALUE."""

    endpoint_url: str | None = None
    dry_run: bool = False
    delete: bool = False
    keep_copies: bool = False


def main(words: list[str]) -> int:
    """Publishes `SOURCE TARGET`; returns 0, 1 where the connection or a disk gave up, or 130 after Ctrl-C."""
    given = [word for word in words if re.match(r"[A-Za-z_]\w*=", word)]
    places = [word for word in words if word not in given]
    if len(places) != 2:
        raise UserError("give what to publish and where: python -m launch.publish dogImages.zip s3://BUCKET/dogImages")
    uploaded: list[str] = []
    settings, out = read_settings(given), console()
    started = time.monotonic()
    try:
        return _publish(places[0], places[1], settings, out, uploaded)
    except KeyboardInterrupt:
        out.print(f"stopped after {_told(uploaded)}; the same command goes on", soft_wrap=True)
        return 130
    except TransferError as error:
        after = f"{_told(uploaded)} in {duration(time.monotonic() - started)}"
        console(stderr=True).print(f"error: {error}; {after}, the same command goes on", soft_wrap=True)
        return 1
    except (BotoCoreError, ClientError) as error:
        raise UserError(f"{places[1]}: {advice(error)}") from error


def _told(uploaded: list[str]) -> str:
    return f"{len(uploaded):,} images uploaded" if uploaded else "nothing uploaded"


def read_settings(words: list[str]) -> Settings:
    """Returns the settings that `KEY=VALUE` words give.

    Raises:
        UserError: an unknown key, or a value of another type.
    """
    allowed = [field.name for field in fields(Settings)]
    for key in (word.partition("=")[0] for word in words):
        if key not in allowed:
            raise UserError(f"key '{key}' is unknown{did_you_mean(key, allowed)}")
    try:
        return Settings(**OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.from_dotlist(words)))  # type: ignore[arg-type]
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{' '.join(words)}: {str(error).partition(chr(10))[0]}") from None


def _publish(url: str, target_url: str, settings: Settings, out: Console, uploaded: list[str]) -> int:
    source = None if url.startswith(("https://", "http://")) else open_source(url)
    target = open_target(target_url, settings.endpoint_url)
    _check_apart(source, target)
    there = look(target)
    if source is None:
        source = open_source(str(_download(url, out)))
    entries = candidates(source.list_objects())
    with _bar("checking", len(entries), out) as advance:
        checked = list(check_all(source, entries, there.by_hash, advance))
    plan = make_plan(checked, url, keep_copies=settings.keep_copies)
    _show(plan, _write_report(plan, target_url), out)
    work = compare(plan.images, there, target, source)
    if work.extra and not settings.delete:
        raise UserError(_too_many(target_url, work))
    if settings.dry_run:
        out.print(f"dry run: {len(work.uploads):,} images would be uploaded, {work.num_bytes / 1e6:,.1f} MB")
        return 0
    target.check_room(work.num_bytes)
    if work.uploads or work.extra:
        with _bar("uploading", len(work.uploads), out) as advance:

            def tell(image: str) -> None:
                uploaded.append(image)  # atomic: several threads do so
                advance()

            carry_out(work, there, target, source, tell)
        there = look(target)
    written = seal(plan.images, there, target)
    out.print(_done(plan, work, written), soft_wrap=True)
    out.print(f"train: {_training(target_url, settings.endpoint_url)}", soft_wrap=True)
    return 0


def _check_apart(source: Source | None, target: Target) -> None:
    if isinstance(source, FolderSource) and isinstance(target, FolderTarget):
        one, other = source.root.resolve(), target.store.root.resolve()
        if one == other or one in other.parents or other in one.parents:
            raise UserError(f"{one} and {other} lie in each other; publish to a folder elsewhere")


def _too_many(target_url: str, work: Work) -> str:
    first = ", ".join(work.extra[:3])
    return (
        f"{target_url} has {len(work.extra):,} images that are not to be there ({first}); "
        "publish elsewhere, or delete them with delete=true"
    )


def _download(url: str, out: Console) -> Path:
    with Progress(TextColumn("downloading"), BarColumn(), TextColumn("{task.fields[mb]}"), console=out) as progress:
        task = progress.add_task("", total=None, mb="")

        def tell(have: int, size: int | None) -> None:
            total = "?" if size is None else f"{size / 1e6:,.1f}"
            progress.update(task, completed=have, total=size, mb=f"{have / 1e6:,.1f} of {total} MB")

        return download(url, OUTPUTS / "downloads", tell)


@contextmanager
def _bar(title: str, total: int, out: Console) -> Iterator[Callable[..., None]]:
    columns = (TextColumn(f"{title:<11}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out) as progress:
        task = progress.add_task("", total=total)
        yield lambda more=1: progress.advance(task, more)


def _write_report(plan: Plan, target_url: str) -> Path | None:
    """Writes a line for everything that was left out, mended or is worth knowing; None where there is nothing."""
    name = "-".join(re.findall(r"[\w.]+", target_url.removeprefix("s3://"))) or "data"
    path = OUTPUTS / "published" / f"{name}.csv"
    if not plan.remarks:
        path.unlink(missing_ok=True)  # what the last time was wrong is mended
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([("what", "file", "why"), *plan.remarks])
    return path


def _show(plan: Plan, report: Path | None, out: Console) -> None:
    """Prints what was found: the first files of each kind, the classes and splits."""
    if plan.remarks:
        table = Table("what", "file", "why", title=f"{len(plan.remarks):,} remarks", title_justify="left")
        for kind in dict.fromkeys(remark.kind for remark in plan.remarks):
            of_kind: list[Remark] = [remark for remark in plan.remarks if remark.kind == kind]
            for remark in of_kind[:SHOWN]:
                table.add_row(kind, Text(remark.key), Text(remark.text))
            if len(of_kind) > SHOWN:
                table.add_row(kind, f"and {len(of_kind) - SHOWN:,} more", "", end_section=True)
        out.print(table)
        out.print(f"all of them: {report}", soft_wrap=True)
    for note in plan.notes:
        out.print(f"note: {note}", soft_wrap=True)
    out.print(counts(plan))


def _done(plan: Plan, work: Work, written: bool) -> str:
    deleted = f", {len(work.extra):,} deleted" if work.extra else ""
    return (
        f"{len(work.uploads):,} images uploaded ({work.num_bytes / 1e6:,.1f} MB), "
        f"{len(plan.images) - len(work.uploads):,} were there already{deleted}; "
        f"manifest {'written' if written else 'up to date'}"
    )


def _training(target_url: str, endpoint_url: str | None) -> str:
    words = ["lr=range", f"data={'s3' if target_url.startswith('s3://') else 'folder'}", f"data.url={target_url}"]
    server = [f"data.endpoint_url={endpoint_url}"] if endpoint_url else []
    return shlex.join(["python", "-m", "launch.tune", *words, *server])


if __name__ == "__main__":
    run_cli(main, __doc__)
