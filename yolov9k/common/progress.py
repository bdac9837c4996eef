"""The progress bar."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from yolov9k.common.console import PlainConsole


def progress_bar(shown: bool = True, console: Console | None = None, *, note: bool = False, sizes: bool = False) -> Progress:
    """A bar on the console, stderr where none is given, that goes when it is done; none in a file or a pipe.

    note: tasks have a field `note`, which stands behind the bar in place of the time that has passed. sizes: bytes are counted.
    """
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn()]
    columns += [DownloadColumn(binary_units=True) if sizes else MofNCompleteColumn()]
    columns += [] if note else [TimeElapsedColumn()]
    columns += [TimeRemainingColumn()]
    columns += [TextColumn("{task.fields[note]}", markup=False)] if note else []
    console = console or PlainConsole(stderr=True)
    seen = shown and (console.is_terminal or console.is_jupyter)
    return _Bar(*columns, console=console, transient=True, disable=not seen)


class _Bar(Progress):
    """A bar that leaves nothing where it is not seen: rich ends it by an empty line in files and pipes."""

    def stop(self) -> None:
        if not self.disable:
            super().stop()
