"""Publishes an image set: checks and repairs it, uploads what is missing and writes a manifest."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dogbreed.errors import UserError
from dogbreed.publishing.checks import check_all
from dogbreed.publishing.download import OnProgress, download
from dogbreed.publishing.plan import Plan, make_plan
from dogbreed.publishing.sources import FolderSource, Source, open_source, visible_files
from dogbreed.publishing.targets import FolderTarget, Target, open_target
from dogbreed.publishing.transfer import Changes, apply_changes, compare, read_state, write_manifest
from dogbreed.storage.credentials import user_errors


class View(Protocol):
    """Shows a publication to the user."""

    def progress(self, title: str, is_bytes: bool = False) -> AbstractContextManager[OnProgress]:
        """Returns a progress bar, of files or bytes, for the duration of a `with` block."""

    def show_plan(self, plan: Plan, report: Path | None) -> None:
        """Shows what will be published, and the file that lists all remarks; None: no remarks."""

    def on_upload(self, key: str) -> None:
        """Counts an upload; called in several threads."""


@dataclass(frozen=True)
class Publication:
    """A finished publication."""

    plan: Plan
    changes: Changes
    wrote_manifest: bool


def publish(
    source_url: str,
    target_url: str,
    view: View,
    *,
    endpoint_url: str | None = None,
    dry_run: bool = False,
    delete: bool = False,
    keep_copies: bool = False,
    outputs: Path = Path("outputs"),
) -> Publication:
    """Publishes the images of `source_url` to `target_url`.

    Args:
        source_url: A folder, a zip archive, `https://...` of an archive, or `demo://`.
        target_url: `s3://bucket/prefix` or a folder, which is created.
        view: Shows the progress.
        endpoint_url: URL of an S3-compatible server; None: AWS.
        dry_run: Write nothing to the target.
        delete: Delete images at the target that are not in the source.
        keep_copies: Keep images of train that are also in valid or test.
        outputs: Folder for downloads and the list of remarks.

    Raises:
        UserError: The source, the target or the image set cannot be used.
        TransferError: The network or a disk failed; running it again resumes.
    """
    is_remote = source_url.startswith(("https://", "http://"))
    source = None if is_remote else open_source(source_url)
    target = open_target(target_url, endpoint_url)
    _check_not_nested(source, target)
    with user_errors(target_url):
        state = read_state(target)
        if source is None:
            with view.progress("downloading", is_bytes=True) as on_progress:
                source = open_source(str(download(source_url, outputs / "downloads", on_progress)))
        files = visible_files(source.list_objects())
        with view.progress("checking") as on_progress:
            checked = list(check_all(source, files, state.by_hash, on_progress))
        plan = make_plan(checked, source_url, keep_copies=keep_copies)
        view.show_plan(plan, _write_remarks(plan, target_url, outputs / "published"))
        changes = compare(plan.images, state, target, source)
        if changes.extra and not delete:
            raise UserError(
                f"{target_url} has {len(changes.extra):,} images that are not in the source "
                f"({', '.join(changes.extra[:3])}); publish elsewhere, or delete them with delete=true"
            )
        if dry_run:
            return Publication(plan, changes, wrote_manifest=False)
        target.check_space(changes.num_bytes)
        if changes.uploads or changes.extra:
            with view.progress("uploading") as on_progress:
                counter = _counter(view, on_progress, len(changes.uploads))
                apply_changes(changes, state, target, source, counter)
            state = read_state(target)
        return Publication(plan, changes, write_manifest(plan.images, state, target))


def _counter(view: View, on_progress: OnProgress, total: int) -> Callable[[str], None]:
    uploaded: list[str] = []

    def on_upload(key: str) -> None:
        view.on_upload(key)
        uploaded.append(key)  # atomic, unlike += 1
        on_progress(len(uploaded), total)

    return on_upload


def _check_not_nested(source: Source | None, target: Target) -> None:
    if isinstance(source, FolderSource) and isinstance(target, FolderTarget):
        one, other = source.root.resolve(), target.store.root.resolve()
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise UserError(f"one of {one} and {other} contains the other; publish to another folder")


def _write_remarks(plan: Plan, target_url: str, folder: Path) -> Path | None:
    """Writes the remarks as CSV; returns the file, or None if there are no remarks."""
    name = "-".join(re.findall(r"[\w.]+", target_url.removeprefix("s3://"))) or "data"
    path = folder / f"{name}.csv"
    if not plan.remarks:
        path.unlink(missing_ok=True)  # of an earlier run
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([("status", "file", "reason"), *plan.remarks])
    return path
