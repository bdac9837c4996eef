"""Files that appear complete or not at all, locks between processes, and the folder of what may be deleted."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from yolov9k.common.errors import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that a crash or a full disk leaves the previous one whole: temporary file, fsync, rename.

    Raises UserError naming the file and the cause.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        fault = _os_error(error)
        if fault is None:
            raise
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = "the disk is full" if full else fault.strerror or str(fault)
        kept = "; the previous file is kept" if os.path.exists(path) else ""  # pathlib raises where the folder is locked
        raise UserError(f"{path}: cannot be saved, {cause}{kept}; free space or choose another --project") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _os_error(error: BaseException | None) -> OSError | None:
    """The system's error behind another: torch's writer covers a failed write with RuntimeErrors of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON, its folder made where it is not there; the file appears complete or not at all. Raises UserError."""
    path, text = Path(path), json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        temporary.write_text(text)

    write_atomically(path, write)


def cache_folder(variable: str = "") -> Path:
    """The user's folder of caches: what the environment's `variable` names, else yolov9k in $XDG_CACHE_HOME, else in ~/.cache.

    It need not be there. Raises RuntimeError where the user has no home.
    """
    if variable and (wish := os.environ.get(variable)):
        return Path(wish)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolov9k"


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of a file, which is another file beside it; `waiting` is called where another process holds it.

    The system lets go of it when a process ends in whatever way. Raises OSError where the lock's file cannot be written
    or its file system has no locks.
    """
    with path.with_name(f"{path.name}.lock").open("a") as file:
        if not _try_lock(file):
            waiting()
            _wait_for_lock(file)
        try:
            yield
        finally:
            _unlock(file)  # also where a process forked meanwhile still has it open


if sys.platform == "win32":  # as msvcrt's documentation has it; it has not run yet

    def _try_lock(file: IO[str]) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _wait_for_lock(file: IO[str]) -> None:
        while not _try_lock(file):
            time.sleep(0.05)  # msvcrt's own waiting gives up after ten seconds

    def _unlock(file: IO[str]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:

    def _try_lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait_for_lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)

    def _unlock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
