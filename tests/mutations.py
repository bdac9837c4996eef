"""Damaged files for readers: changed as disks, transfers, tools and hostile people change them, drawn from fixed seeds."""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

HANG = 60  # seconds that one small input never takes, on a machine that does much else too
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030", "latin-1")
HOSTILE_WORDS = (
    "", "0", "-1", "1e999", "nan", ".inf", "Infinity", "-0.0", "1e-400", "9" * 400, "9" * 5000, "0x" + "f" * 400, "1_0",
    "1:1:1", "true", "null", "~", "~nobody/x", "\0", "\x1b[2J", "\ud800", "\\ud800", "a" * 300, "a/" * 3000, "..",
    "/", "*", "**/" * 20, "[", "]", "{", "}", "[" * 5000, "{a: " * 200, "<a>" * 500, "&x;", "<!DOCTYPE a [<!ENTITY x 'y'>]>",
    "<![CDATA[", "-->", "&a [*a, *a]", "*a", "<<: ", "!!int x", "!!bool x", "!!timestamp x", "!!python/object:os.system x",
    "!!binary é", "2024-02-30", "'", '"', "|", ">", "%", "---", ": ", "- ", "\t", "\n", "\r", "\u2028", "\ufeff", "猫", "\\",
    "#", "$", "`",
)  # fmt: skip


def mutants(originals: Sequence[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` files, each made of one of `originals` by one to four changes; the same ones for the same seed."""
    draw = random.Random(seed)
    for _ in range(count):
        data = bytearray(draw.choice(originals))
        for _ in range(draw.choice((1, 1, 2, 4))):
            data = draw.choice(_CHANGES)(draw, data, originals)
        yield bytes(data)


def text_mutants(originals: Sequence[str], count: int, seed: int = 0) -> Iterator[bytes]:
    """As `mutants`, of text files: words exchanged for hostile ones, in every other file bytes are changed too."""
    draw = random.Random(seed)
    for number in range(count):
        words = re.split(r"(\w+|[^\w\s]|\s)", draw.choice(originals))
        for _ in range(draw.choice((0, 1, 1, 2, 3))):
            words[draw.randrange(len(words))] = draw.choice(HOSTILE_WORDS)
        text = "".join(words).encode(draw.choice(ENCODINGS), "replace")
        yield text if number % 2 else next(mutants([text], 1, draw.randrange(1 << 30)))


class Hang(BaseException):
    """An input takes too long. No Exception: readers turn those of what they read into messages."""


@contextmanager
def within_time(seconds: int = HANG) -> Iterator[None]:
    """Raises Hang in what takes longer, in the main thread."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _place(draw: random.Random, data: bytearray) -> int:
    """Anywhere, every other time among the first bytes, where files say what they are."""
    return draw.randrange(max(1, min(len(data), 64) if draw.random() < 0.5 else len(data)))


def _flip(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    for _bit in range(draw.choice((1, 1, 8))):
        if data:
            data[_place(draw, data)] ^= 1 << draw.randrange(8)
    return data


def _number(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    size, at = draw.choice((1, 2, 4)), _place(draw, data)
    value = draw.choice(_NUMBERS) & (256**size - 1)
    data[at : at + size] = value.to_bytes(size, draw.choice(("little", "big")))
    return data


def _cut(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    return data[: _place(draw, data)]


def _drop(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    at = _place(draw, data)
    del data[at : at + draw.randrange(1, 64)]
    return data


def _repeat(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    at = _place(draw, data)
    part = data[at : at + draw.randrange(1, 64)]
    return data[:at] + part * draw.choice((2, 3, 100)) + data[at:]


def _insert(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    at = _place(draw, data)
    return data[:at] + draw.randbytes(draw.randrange(1, 32)) + data[at:]


def _splice(draw: random.Random, data: bytearray, originals: Sequence[bytes]) -> bytearray:
    other = draw.choice(originals)
    return data[: _place(draw, data)] + other[_place(draw, bytearray(other)) :]


def _zeros(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    at = _place(draw, data)
    data[at:] = bytes(len(data) - at)
    return data


_CHANGES = (_flip, _flip, _number, _number, _cut, _drop, _repeat, _insert, _splice, _zeros)
