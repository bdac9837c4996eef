"""The loader's worker processes: how many there is room for, and one line where one ends by what is not its data's fault."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import multiprocessing.queues
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
from torch.utils.data import DataLoader

from yolov9k.common.console import hush_pillow
from yolov9k.common.errors import UserError, shown, warn
from yolov9k.common.memory import readable_size

SHARED = Path("/dev/shm")  # where torch lays what a worker hands over
AHEAD = 2  # batches that a worker makes before they are asked for, DataLoader's own default
SHARE = 0.9  # of the room that may be filled
_MORE_ROOM = "give fewer --workers (0 needs none), or more room: docker run --shm-size=1g"
_MEMORY = "mostly because memory ran out; give fewer --workers, a smaller --batch, or leave --cache out"
_FILES = "too many open files; give fewer --workers, or raise the limit: ulimit -n 65536"


def fitting_workers(workers: int, batch_bytes: float) -> int:
    """At most `workers`, as many as /dev/shm has room for with batches of this size, 0 where there is none; fewer are told."""
    try:
        found = os.statvfs(SHARED)
    except OSError:  # another system, or none: seen when they are started
        return workers
    room = found.f_bavail * found.f_frsize
    fitting = max(0, int((SHARE * room / batch_bytes - 1) // AHEAD))  # one batch is in use
    if fitting >= workers:
        return workers
    needed = readable_size(int((AHEAD * workers + 1) * batch_bytes))
    warn(
        f"--workers {workers}: they need {needed} of shared memory, {SHARED} has {readable_size(room)} free; {fitting} are "
        "taken; a container gets more by docker run --shm-size=1g"
    )
    return fitting


def why_no_workers() -> str:
    """Why this system can start none, empty where it can."""
    try:
        multiprocessing.Semaphore(1)
    except (OSError, ImportError) as error:
        return _reason(error)
    return ""


def begin(batches: DataLoader[Any]) -> Iterator[Any]:
    """The iterator of an epoch, workers started with the first one. Raises OSError where the system starts no more processes.

    torch would raise a worker's end wherever the main process happens to be, in half a training step too; it is seen when
    the next batch is waited for.
    """
    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    before = signal.getsignal(signal.SIGCHLD) if main else None
    try:
        return iter(batches)
    except OSError as error:
        with _silent():  # about the half-made iterator, which goes with the frames
            traceback.clear_frames(error.__traceback__)
            raise OSError(error.errno, _reason(error)) from None
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


def explained(error: Exception, iterator: Any) -> UserError | None:
    """What ended the workers and what to do; None where it is an error of the data set's own code."""
    codes = [worker.exitcode for worker in getattr(iterator, "_workers", ()) if worker.exitcode is not None]
    text = str(error)
    if codes:
        return UserError(f"a loader worker {_cause(next(filter(None, codes), -signal.SIGTERM))}")  # torch's end of it is 0
    if "Caught" in text and "DataLoader worker" in text:
        return UserError(f"a loader worker is out of memory, {_MEMORY}") if isinstance(error, MemoryError) else None
    if "ancdata" in text or "open files" in text or getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return UserError(f"loader workers: {_FILES}")
    return None


def _cause(code: int) -> str:
    if code in (-signal.SIGBUS, errno.ENOSPC):
        return f"found {SHARED} full: {_MORE_ROOM}"
    if code in (-signal.SIGKILL, errno.ENOMEM):
        return f"was killed by the system, {_MEMORY}"
    if code in (errno.EMFILE, errno.ENFILE):
        return f"could not hand over a batch: {_FILES}"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}; give --workers 0 to see where it comes from"
    return f"could not hand over a batch ({os.strerror(code)}); {_MORE_ROOM}"


def _reason(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else shown(str(error), 100)


def start_worker(_: int) -> None:
    """What each worker does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    sys.excepthook = _report
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]
    hush_pillow()  # where workers are no copies of the main process
    cv2.setNumThreads(0)  # there are as many workers as processors to spend


def _end(error: BaseException, _: Any) -> None:
    """End a worker whose batch cannot be handed over: otherwise it would be waited for without end.

    The exit status is the system's number of the error, which torch writes last.
    """
    number = getattr(error, "errno", None) or next(iter(re.findall(r"\((\d+)\)", str(error))[-1:]), errno.EIO)
    os._exit(int(number) % 256 or errno.EIO)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What a thread of a worker dies of; not that the main process was interrupted while it took a batch's memory over."""
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)
