"""What publishing prints: progress bars, remarks, the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dogbreed.publishing.download import OnProgress
from dogbreed.publishing.plan import Plan, counts
from dogbreed.publishing.publish import Publication

ROWS_PER_STATUS = 8


class PublishView:
    """Prints to `console` and collects the keys of uploaded images."""

    def __init__(self, console: Console) -> None:
        self.uploaded: list[str] = []
        self._console = console

    def on_upload(self, key: str) -> None:
        """Counts an upload."""
        self.uploaded.append(key)

    @property
    def num_uploaded(self) -> str:
        """The number of uploads, as text."""
        return f"{len(self.uploaded):,} images uploaded" if self.uploaded else "nothing uploaded"

    @contextmanager
    def progress(self, title: str, is_bytes: bool = False) -> Iterator[OnProgress]:
        """Shows a progress bar for the duration of a `with` block."""
        amount = DownloadColumn() if is_bytes else MofNCompleteColumn()
        columns = (TextColumn(f"{title:<11}"), BarColumn(), amount, TimeRemainingColumn())
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task("", total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)

    def show_plan(self, plan: Plan, report: Path | None) -> None:
        """Prints the first remarks of each status, notes, and the numbers of classes and images."""
        if plan.remarks:
            table = Table("status", "file", "reason", title=f"{len(plan.remarks):,} remarks", title_justify="left")
            for status, group in groupby(plan.remarks, key=lambda remark: remark.status):
                remarks = list(group)
                for remark in remarks[:ROWS_PER_STATUS]:
                    table.add_row(status, Text(remark.key), Text(remark.text))
                if len(remarks) > ROWS_PER_STATUS:
                    table.add_row(status, f"and {len(remarks) - ROWS_PER_STATUS:,} more", "", end_section=True)
            self._console.print(table)
            self._console.print(f"full list: {report}", soft_wrap=True)
        for note in plan.notes:
            self._console.print(f"note: {note}", soft_wrap=True)
        self._console.print(counts(plan))


def result_line(publication: Publication, dry_run: bool) -> str:
    """Returns the numbers of uploaded, replaced, unchanged and deleted images, and the state of the manifest."""
    changes = publication.changes
    parts = [
        f"{len(changes.uploads):,} images {'would be ' if dry_run else ''}uploaded ({changes.num_bytes / 1e6:,.1f} MB)",
        *([f"{changes.replaced:,} of them replacing others"] if changes.replaced else []),
        f"{len(publication.plan.images) - len(changes.uploads):,} unchanged",
        *([f"{len(changes.extra):,} {'would be ' if dry_run else ''}deleted"] if changes.extra else []),
    ]
    manifest = "" if dry_run else f"; manifest {'written' if publication.wrote_manifest else 'up to date'}"
    return f"{'dry run: ' if dry_run else ''}{', '.join(parts)}{manifest}"
