"""The run directory: its name, its settings, its results, line by line."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from yolov9k.common.errors import UserError
from yolov9k.tasks import Task

FIRST_COLUMNS, LAST_COLUMNS = ("epoch", "time"), ("lr/pg0", "images_per_s", "memory_gb")


def columns(task: Task) -> tuple[str, ...]:
    """Columns of results.csv: the epoch and its seconds, the task's losses and metrics, then what every task has."""
    return (*FIRST_COLUMNS, *task.columns(), *LAST_COLUMNS)


@contextmanager
def run_directory(project: str | Path, name: str, exist_ok: bool = False) -> Iterator[Path]:
    """`make_run_directory`, and what was refused before anything was written leaves no folder behind."""
    directory = make_run_directory(project, name, exist_ok)
    try:
        yield directory
    except BaseException:
        with suppress(OSError):  # it is not empty
            directory.rmdir()
        raise


def make_run_directory(project: str | Path, name: str, exist_ok: bool = False) -> Path:
    """Create project/name, or project/name2, name3, ... where it exists. Raises UserError where it cannot be written."""
    if not name.strip():
        raise UserError("--name: empty; give the run directory a name")
    wanted = Path(project) / name
    directory, number = wanted, 2
    while directory.exists() and not exist_ok:
        directory, number = wanted.with_name(f"{name}{number}"), number + 1
    try:
        directory.mkdir(parents=True, exist_ok=exist_ok)
        probe = directory / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror}); choose another --project") from None
    return directory


def latest_checkpoint(project: str | Path) -> Path:
    """The youngest last.pt below `project`. Raises UserError where there is none."""
    found = sorted(Path(project).glob("*/weights/last.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"--resume: no run with weights/last.pt in {project}; give the path of a last.pt")
    return found[-1]


def save_settings(directory: Path, **settings: Mapping[str, Any]) -> None:
    """Write each mapping to NAME.yaml."""
    for name, values in settings.items():
        (directory / f"{name}.yaml").write_text(yaml.safe_dump(dict(values), sort_keys=False))


class Results:
    """results.csv, one line an epoch, and TensorBoard's log where TensorBoard is installed.

    Lines from `first` on are dropped, since a resumed run writes them anew.
    """

    def __init__(self, path: Path, task: Task, first: int = 0) -> None:
        self.path, self.columns = path, columns(task)
        kept: list[dict[str, str]] = []
        if first and path.exists():
            with path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if int(row["epoch"]) < first]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(kept)
        self._board = _tensorboard(path.parent, first)

    def add(self, row: Mapping[str, float]) -> None:
        """Append one epoch's line; a missing or non-finite value is left empty."""
        known = {key: value for key, value in row.items() if math.isfinite(value)}
        with self.path.open("a", newline="") as file:
            cells = {key: f"{known[key]:.6g}" if key in known else "" for key in self.columns}
            csv.DictWriter(file, self.columns).writerow(cells)
        if self._board is not None:
            for key in known.keys() - {"epoch"}:
                self._board.add_scalar(key, known[key], int(row["epoch"]))
            self._board.flush()

    def close(self) -> None:
        """End TensorBoard's log."""
        if self._board is not None:
            self._board.close()


def _tensorboard(directory: Path, first: int) -> Any:
    """A writer of one log a run, of which epochs from `first` on are not shown twice; None without TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory), purge_step=first or None)
