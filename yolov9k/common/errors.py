"""What a user sees when something is wrong: one line that names the thing, its value and the remedy."""

from __future__ import annotations

import math

from rich.console import Console
from rich.markup import escape

_stderr = Console(stderr=True, soft_wrap=True, highlight=False)


class UserError(Exception):
    """An error that the user can correct. The command line prints its message alone, without a traceback, and exits with 2."""


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises UserError, naming the flag, unless low <= value <= high."""
    if not low <= value <= high:
        wanted = f"at least {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
        raise UserError(f"--{name} {value:g}: expected {wanted}")


def warn(message: str) -> None:
    """Print one line of warning to stderr."""
    _stderr.print(f"[yellow]warning:[/yellow] {escape(message)}")


def note(message: str) -> None:
    """Print one line to stderr that asks for nothing."""
    _stderr.print(message, markup=False)
