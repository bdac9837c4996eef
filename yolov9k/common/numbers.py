"""Numbers out of users' texts: ASCII alone. Python itself also takes 1_0 and the digits of every script."""

from __future__ import annotations


def is_plain(text: str) -> bool:
    """Whether Python reads a number in `text` as every other tool does."""
    return "_" not in text and text.isascii()


def parse_number(text: str, kind: type[int] | type[float] = float) -> float:
    """A number as files and command lines write it, `kind` float or int. Raises ValueError for anything else."""
    if not is_plain(text):
        raise ValueError(f"{text!r} is not a number in ASCII digits")
    return kind(text)


def is_whole(text: str) -> bool:
    """Whether `text` is nothing but ASCII digits, few enough for a whole number of torch and numpy."""
    return text.isascii() and text.isdecimal() and len(text) < 19
