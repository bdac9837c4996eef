"""The run directory: its name, its settings, its results, line by line."""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from yolov9k.common.errors import RUN, USAGE, UserError, failing_as, warn
from yolov9k.common.files import locked, sweep, user_path, write_atomically
from yolov9k.common.memory import readable_size
from yolov9k.common.text import read_text
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


@failing_as(RUN)
def make_run_directory(project: str | Path, name: str, exist_ok: bool = False) -> Path:
    """Create project/name, or project/name2, name3, ... where it exists. Raises UserError where it cannot be written."""
    directory = wanted_directory(project, name)
    try:
        directory = _make_first(directory, exist_ok)
        probe = directory / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # of several runs that write into one directory
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{directory}: cannot be written ({why}); choose another --project") from None
    return directory


def wanted_directory(project: str | Path, name: str) -> Path:
    """project/name. Raises UserError where the name is empty."""
    if not name.strip():
        raise UserError("--name: empty; give the run directory a name", USAGE)
    return user_path(project) / user_path(name)


def _make_first(wanted: Path, exist_ok: bool) -> Path:
    """Make the first directory that is not there; runs that begin together ask for the same one."""
    numbered = (wanted.with_name(f"{wanted.name}{number}") for number in itertools.count(2))
    for directory in itertools.chain((wanted,), () if exist_ok else numbered):
        try:
            directory.mkdir(parents=True, exist_ok=exist_ok)
        except FileExistsError:  # noqa: PERF203 (a few of them)
            if exist_ok:
                raise
        else:
            return directory
    raise AssertionError("unreachable")


@failing_as(RUN)
def make_folder(path: Path) -> None:
    """Make a folder of the run directory. Raises UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); choose another --project") from None


@failing_as(RUN)
def check_room(directory: Path, size: int) -> None:
    """Raise UserError where checkpoints of `size` bytes have no room in a directory, which need not be there yet."""
    place = directory.absolute()
    there = next(folder for folder in (place, *place.parents) if os.path.isdir(folder))
    try:
        total, _, free = shutil.disk_usage(there)
    except OSError:
        return
    if total and free < size:  # some file systems tell neither
        raise UserError(
            f"{directory}: the run's checkpoints take {readable_size(size)} and {readable_size(free)} are free; free space or "
            "choose another --project"
        )


@failing_as(RUN)
def hold(directory: Path) -> ExitStack:
    """Hold a run directory for this process until the stack is closed, and sweep what killed runs left in it.

    Where the file system has no locks the directory is not held. Raises UserError where another process trains in it.
    """

    def refuse() -> None:
        raise UserError(f"{directory}: another process is training in it; wait for its end, or choose another --name")

    held = ExitStack()
    try:
        held.enter_context(locked(directory / ".run", refuse))
    except OSError:
        return held
    for name in ("results.csv", "opt.yaml", "args.yaml", "hyp.yaml"):
        sweep(directory / name)
    for left in (directory / "weights").glob(".*.pt.*"):
        sweep(left.with_name(left.name[1:].rpartition(".")[0]))
    return held


def latest_checkpoint(project: str | Path) -> Path:
    """The youngest last.pt below `project`. Raises UserError where there is none."""
    found = sorted(user_path(project).glob("*/weights/last.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"--resume: no run with weights/last.pt in {project}; give the path of a last.pt")
    return found[-1]


def save_settings(directory: Path, **settings: Mapping[str, Any]) -> None:
    """Write each mapping to NAME.yaml. Raises UserError."""
    for name, values in settings.items():
        _write(directory / f"{name}.yaml", yaml.safe_dump(dict(values), sort_keys=False))


def _write(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_bytes(text.encode())

    write_atomically(path, write)


class Results:
    """results.csv, one line an epoch, and TensorBoard's log where TensorBoard is installed.

    Lines from `first` on are dropped, since a resumed run writes them anew. Raises UserError where the file cannot be read
    or written, or holds something else.
    """

    def __init__(self, path: Path, task: Task, first: int = 0) -> None:
        self.path, self.columns = path, columns(task)
        kept = [row for row in self._rows() if int(row["epoch"]) < first] if first and path.exists() else []
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(kept)
        _write(path, text.getvalue())
        self._quiet = ExitStack()
        self._quiet.enter_context(_told_once())
        self._board = _tensorboard(path.parent, first)

    def _rows(self) -> Iterator[dict[str, str]]:
        """The epochs that the file holds; a last line that is cut short is no epoch yet."""
        lines = read_text(self.path).splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
        reader = csv.DictReader(lines)
        if lines and tuple(reader.fieldnames or ()) != self.columns:
            raise self._damaged(1, "it has other columns")
        try:
            for row in reader:
                if not _is_epoch(row):
                    raise self._damaged(reader.line_num, "not an epoch's numbers")
                yield row
        except csv.Error as error:
            raise self._damaged(reader.line_num, str(error)) from None

    def _damaged(self, line: int, what: str) -> UserError:
        return UserError(f"{self.path}:{line}: damaged ({what}); mend the line, or move the file away to resume without it")

    def add(self, row: Mapping[str, float]) -> None:
        """Append one epoch's line; a missing or non-finite value is left empty. Raises UserError."""
        known = {key: value for key, value in row.items() if math.isfinite(value)}
        cells = {key: f"{known[key]:.6g}" if key in known else "" for key in self.columns}
        try:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(cells)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); free space, then go on with --resume"
            ) from None
        self._log(int(row["epoch"]), known)

    def _log(self, epoch: int, known: Mapping[str, float]) -> None:
        """TensorBoard's part, without which a run goes on."""
        if self._board is None:
            return
        try:
            for key in known.keys() - {"epoch"}:
                self._board.add_scalar(key, known[key], epoch)
            self._board.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self._board = None
        warn(f"{self.path.parent}: TensorBoard's log cannot be written ({error.strerror}); it ends here")

    def close(self) -> None:
        """End TensorBoard's log."""
        with self._quiet:
            try:
                if self._board is not None:
                    self._board.close()
            except OSError as error:
                self._lose(error)


def _is_epoch(row: Mapping[Any, Any]) -> bool:
    """Whether a row of results.csv has all cells, and numbers in them or nothing."""
    try:
        for cell in filter(None, row.values()):
            float(cell)
    except (TypeError, ValueError):
        return False
    return None not in row.values() and None not in row and re.fullmatch("[0-9]{1,9}", row["epoch"]) is not None


def _tensorboard(directory: Path, first: int) -> Any:
    """A writer of one log a run, of which epochs from `first` on are not shown twice; None without TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    try:
        return SummaryWriter(str(directory), purge_step=first or None)
    except (OSError, UnicodeError) as error:  # a UnicodeError: a name that is no UTF-8
        cause = getattr(error, "strerror", None) or error
        warn(f"{directory}: TensorBoard's log cannot be written ({cause}); the run has none")
        return None


@contextmanager
def _told_once() -> Iterator[None]:
    """TensorBoard's writing thread prints a traceback of what its next call raises here: of an error that is told anyway."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
