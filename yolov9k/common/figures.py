"""Figures as files. Figure objects only, never pyplot: any thread may draw, and nothing of a user's own plots is touched.

Text in a figure is what users wrote: no mathematics between dollar signs, in whatever script, of whatever length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

from yolov9k.common.errors import UserError, one_line, warn

# Matplotlib's fonts of boxes for every character there is, and of formulas, at places that Unicode gives to others.
_OTHER_FONTS = ("Last Resort", "cm", "STIXNonUnicode", "STIXSize")
_LONGEST = 40  # characters of a text: more would squeeze the axes to nothing


def save_figure(figure: Figure, path: str | Path, dpi: int = 150) -> None:
    """Write a figure in the format of the path's suffix, PNG without one; the folder is made where it is not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for text in figure.findobj(Text):
        _as_written(text)
    figure.savefig(path, dpi=dpi, format=path.suffix.lstrip(".") or "png")


@contextmanager
def drawing() -> Iterator[None]:
    """What is drawn within may fail: that is a warning, since no run ends for an image of it."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        warn(f"an image of the run is not drawn: {kind}{error}")


def add_legend(axes: Axes, lines: Sequence[Any], names: Sequence[str], **options: Any) -> None:
    """A legend with every name; matplotlib itself leaves out those that begin with an underscore."""
    legend = axes.legend(lines, [str(number) for number in range(len(lines))], **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def readable(name: str) -> str:
    """A name as figures show it: of bearable length, and characters that no installed font has as their escapes."""
    content = one_line(name, _LONGEST)
    _, nowhere = _fonts_for(content, FontProperties())
    return content.translate({ord(char): ascii(char)[1:-1] for char in nowhere})


def _as_written(text: Text) -> None:
    """No mathematics, and fonts that have the characters."""
    text.set_parse_math(False)
    families, _ = _fonts_for(text.get_text(), text.get_fontproperties())
    if families:
        text.set_fontfamily([*text.get_fontfamily(), *families])


def _fonts_for(text: str, properties: FontProperties) -> tuple[tuple[str, ...], str]:
    """As `_fonts_with`; control characters are nowhere."""
    controls = "".join(sorted({char for char in text if not char.isprintable()}))
    unusual = frozenset(char for char in text if not char.isascii() and char.isprintable())
    families, nowhere = _fonts_with(unusual, font_manager.findfont(properties)) if unusual else ((), "")
    return families, nowhere + controls


@lru_cache(64)
def _fonts_with(chars: frozenset[str], font: str) -> tuple[tuple[str, ...], str]:
    """Families of installed fonts that have, together, those of `chars` that a font's file lacks; what none of them has."""
    missing = _lacking(font, chars)
    families: list[str] = []
    for entry in font_manager.fontManager.ttflist if missing else ():
        if entry.name in families or entry.name.startswith(_OTHER_FONTS):
            continue
        if len(left := _lacking(entry.fname, missing)) < len(missing):
            families.append(entry.name)
            missing = left
            if not missing:
                break
    return tuple(families), "".join(sorted(missing))


def _lacking(font: str, chars: frozenset[str]) -> frozenset[str]:
    try:
        loaded = font_manager.get_font(font)
        return frozenset(char for char in chars if not loaded.get_char_index(ord(char)))
    except (OSError, RuntimeError):  # a font that is gone or damaged
        return chars
