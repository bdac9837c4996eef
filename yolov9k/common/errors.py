"""What a user sees when something is wrong: one line that names the thing, its value and the remedy."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager

from yolov9k.common.console import PlainConsole, literal

LONGEST_LINE = 2000  # characters of a message, whatever the values in it
_stderr = PlainConsole(stderr=True)


class _Shortened(reprlib.Repr):
    """Looks at a few items of two levels: lists that name each other may write out to gigabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 200, 200

    def repr_int(self, x: int, level: int) -> str:
        """Python itself refuses to write thousands of digits."""
        return repr(x) if x.bit_length() < 400 else f"a number of {x.bit_length()} bits"


_shortened = _Shortened()


RUN, USAGE, DATA, MODEL = 1, 2, 3, 4  # exit statuses: what failed


class UserError(Exception):
    """An error that the user can correct. The command line prints its message alone, without a traceback.

    status: what the command line exits with, RUN, USAGE, DATA or MODEL; USAGE where nobody said (`failing_as`).
    """

    def __init__(self, message: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def failing_as(status: int) -> Iterator[None]:
    """Say what the errors raised within are about, unless that was said further in. Also a decorator."""
    try:
        yield
    except UserError as error:
        error.status = error.status or status
        raise


def shown(value: object, limit: int = 60) -> str:
    """What a message shows of a value out of a user's file: its repr on one line, of at most `limit` characters."""
    text = " ".join(_shortened.repr(value).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises UserError, naming the flag, unless low <= value <= high."""
    if not low <= value <= high:
        wanted = f"at least {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
        raise UserError(f"--{name} {value:g}: expected {wanted}")


def one_line(text: str, limit: int = 240) -> str:
    """A text without breaks, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def report(mark: str, style: str, message: str) -> None:
    """Print one line to stderr, begun by a word in color, cut where it is beyond any sense."""
    _stderr.print(literal(one_line(message, LONGEST_LINE), f"{mark}: ", style))


def warn(message: str) -> None:
    """Print one line of warning to stderr."""
    report("warning", "yellow", message)


def note(message: str) -> None:
    """Print one line to stderr that asks for nothing."""
    _stderr.print(literal(one_line(message, LONGEST_LINE)))
