"""Files that appear complete or not at all, locks between processes, and the folder of what may be deleted."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from yolov9k.common.errors import RUN, UserError, failing_as, one_line

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file. Raises OSError, as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read its bytes. A pipe would be waited for and a device read for ever: they are refused.

    Raises OSError, also for a folder and for a name that no file can have.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return path.open("rb")
    except ValueError:  # a zero byte or half of a surrogate pair
        raise OSError(errno.EINVAL, "no file can have this name") from None


def user_path(path: str | Path) -> Path:
    """A path as a user gives it, `~` and `~name` for home folders: shells leave them after an equals sign, YAML always.

    What stands there under that very name counts first. Raises UserError where the home folder is not known.
    """
    text = str(path)
    first = Path(path).parts[:1]
    if not text.startswith("~") or (first != ("~",) and os.path.lexists(first[0])):
        return Path(path)
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):  # a ValueError: a zero byte or half of a surrogate pair
        raise UserError(f"{one_line(text)}: the home folder is not known; give the whole path") from None


@contextlib.contextmanager
def plain_path(path: Path) -> Iterator[str]:
    """A name of the file for libraries that take UTF-8 alone: its own, or a link to it in a temporary folder.

    The file need not be there: what is written under the link appears under its own name.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / f"link{path.suffix if path.suffix.isascii() else ''}"
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield str(path)


@failing_as(RUN)
def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that a crash or a full disk leaves the previous one whole: temporary file, fsync, rename.

    Raises UserError naming the file and the cause.
    """
    if "\0" in str(path):
        raise UserError(f"{path}: cannot be saved, a zero byte is no part of a name".replace("\0", "\\0"))
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
        failed = _os_error(error)
        if failed is None:
            raise
        full = failed.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = "the disk is full" if full else failed.strerror or str(failed)
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


def sweep(path: Path) -> None:
    """Remove what `write_atomically` of killed processes has left beside `path`: only for who holds the lock of it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(OSError):
            left.unlink()


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON, its folder made where it is not there; the file appears complete or not at all. Raises UserError."""
    path, text = Path(path), json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        temporary.write_text(text)

    write_atomically(path, write)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none, its folder made where it is not there. Raises UserError.

    Unlike `write_atomically` without waiting for the disk, as there may be thousands of them.
    """
    write_bytes(path, text.encode())


@failing_as(RUN)
def write_bytes(path: Path, content: bytes) -> None:
    """`write_text` of bytes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except (OSError, UnicodeError) as error:  # a UnicodeError: a name that the file system's encoding has not
        with contextlib.suppress(OSError, UnicodeError):
            path.unlink(missing_ok=True)  # not half of it
        raise UserError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None


def cache_folder(variable: str = "") -> Path:
    """The user's folder of caches: what the environment's `variable` names, else yolov9k in $XDG_CACHE_HOME, else in ~/.cache.

    It need not be there. Raises OSError where the user has no home: a cache is done without then.
    """
    wish = os.environ.get(variable) if variable else None
    try:
        if wish:
            return user_path(wish)
        return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "yolov9k"
    except UserError as error:
        raise OSError(errno.ENOENT, str(error)) from None


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
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
            if not file.closed:
                _unlock(file)  # also where a process that another library forked still has it open


_held: set[IO[str]] = set()


def _leave_to_parent() -> None:
    """A forked process lets go of its parent's locks, which it would otherwise keep when the parent is killed."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


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
