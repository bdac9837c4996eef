"""The terminal. Names and paths that users chose are printed as they stand: no markup, no codes of emoji, never an error."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_LONGEST_NAME = 80  # characters of a name in a table: more of them would take a page
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class PlainConsole(Console):
    """A console that takes text for text, on stdout unless `stderr`, and does not break lines.

    A character that the stream's encoding lacks (ASCII, GBK, Latin-1) is written as its escape, as Python itself does on
    stderr; what is laid out in tables is escaped before.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Characters that would control the terminal are shown as their escapes."""
        return super().render_str(_fitting(text.translate(_CONTROLS), self.encoding), **options)

    @property
    def encoding(self) -> str:
        """Of the stream as it is at the time; rich itself says UTF-8 of stdout, whatever that is."""
        return (getattr(self.file, "encoding", None) or "utf-8").lower()

    @property
    def file(self) -> IO[str]:
        """The stream that is written to, as it is at the time."""
        return _Lenient(super().file)  # type: ignore[return-value]

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file


class _Lenient:
    """A stream that writes what its encoding lacks as escapes."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._stream.write(_fitting(text, getattr(self._stream, "encoding", None) or "utf-8"))  # a StringIO has none


def _fitting(text: str, encoding: str) -> str:
    """What an encoding lacks made escapes."""
    return text if text.isascii() else text.encode(encoding, "backslashreplace").decode(encoding)


class _Literal(Text):
    """Text that is measured and laid out as its console's encoding will show it."""

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._for(console))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Any]:
        yield self._for(console)

    def _for(self, console: Console) -> Text:
        text = Text(_fitting(self.plain, console.encoding), self.style, spans=self.spans)  # what has a style is ASCII
        text.overflow, text.justify, text.no_wrap, text.end = self.overflow, self.justify, self.no_wrap, self.end
        return text


def literal(text: str, mark: str = "", style: str = "") -> Text:
    """Text that any console prints as it stands, whatever it makes of markup; a word in color may stand before it."""
    return _Literal.assemble((mark, style), text.translate(_CONTROLS))


def add_columns(table: Table, names: str, *numbers: str) -> None:
    """A column of what users called things, folded into the room that is left, and columns of numbers, which are not cut."""
    table.add_column(names, overflow="fold", min_width=4)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)


def name_cell(name: str) -> Text:
    """A name in a table, on one line before it is folded."""
    line = " ".join(name.split())
    return literal(line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…")


def hush_pillow() -> None:
    """For a command's own process: no lines of Pillow's on stderr. What an image is damaged by is found and told by us.

    Filters that the user sets by PYTHONWARNINGS or -W come first.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.", append=True)
    logging.getLogger("PIL").addHandler(logging.NullHandler())
