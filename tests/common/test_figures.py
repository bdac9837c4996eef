"""Figures show names as users wrote them, in whatever script and of whatever length, and none that fails ends a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from yolov9k.common.errors import UserError
from yolov9k.common.figures import add_legend, drawing, readable, save_figure
from yolov9k.data.draw import draw_boxes

NAMES = [
    "Ba$$in",
    "$x^{$",
    "_hidden",
    r"\frac",
    "猫",
    "Straße",
    "a\nb\x01c\0",
    "\ud800",
    "n" * 10_000,
    "[/x]",
    "",
    "עברית",
    "😀",
]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_drawn(tmp_path: Path, name: str) -> None:
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    lines = [axes.plot([0, 1])[0], axes.plot([1, 0])[0]]
    add_legend(axes, lines, [readable(name), "other"])
    axes.set_xticks([0, 1], [readable(name), "other"])
    axes.set_title(readable(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of glyphs that are missing, of axes that have no room
        save_figure(figure, tmp_path / "x.png")
    assert cv2.imread(str(tmp_path / "x.png")) is not None
    assert texts(figure).count(readable(name)) >= 3


@pytest.mark.parametrize(
    ("name", "shown"), [("$a$", "$a$"), ("_b", "_b"), ("ß", "ß"), ("a\x01\nb", r"a\x01 b"), ("x" * 99, "x" * 39 + "…")]
)
def test_names_are_shown_as_they_stand(name: str, shown: str) -> None:
    assert readable(name) == shown


def test_what_no_font_has_is_escaped() -> None:
    unassigned = "\U000e1234"  # of no script: no font has it
    assert readable(f"a{unassigned}") == r"a\U000e1234"


def test_a_font_of_another_script_is_found(tmp_path: Path) -> None:
    """Each character that is kept has a font among those that its text is drawn with."""
    figure = Figure()
    text = figure.text(0.5, 0.5, readable("∀𝔸猫ß"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "x.png")
    assert text.get_text().startswith("∀")


@pytest.mark.parametrize("error", [UserError("x.png: cannot be written"), ValueError("no\nroom"), MemoryError()])
def test_a_figure_that_fails_is_a_warning(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with drawing():
        raise error
    printed = capsys.readouterr().err
    assert printed.startswith("warning: an image of the run is not drawn: ")
    assert printed.count("\n") == 1


def test_an_interruption_is_none() -> None:
    with pytest.raises(KeyboardInterrupt), drawing():
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", NAMES)
def test_labels_on_images(name: str) -> None:
    image: Any = np.zeros((80, 80, 3), np.uint8)
    assert draw_boxes(image, np.array([[5, 30, 40, 60]]), np.array([0]), [name]).any()
