"""Windows: why there is none, known without risk to the process that asks, and images that are shown until q or Esc."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from yolov9k.common import window
from yolov9k.common.errors import UserError

IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A display that nobody serves."""
    monkeypatch.setenv("DISPLAY", ":77")
    monkeypatch.setenv("QT_QPA_PLATFORM", "xcb")


@pytest.mark.usefixtures("nowhere")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have a display of their own")
def test_a_display_that_does_not_answer_is_no_window(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither for what is shown nor for a viewer; toolkits end the process that asks them."""
    assert window.open_viewer() is None
    told = capsys.readouterr().err
    reason = told.removeprefix("warning: --view-img: ").removesuffix("; look at the images in the run directory\n")
    assert reason == window.why_no_window() != told
    with pytest.raises(UserError, match=r"^wood: cannot be shown, ") as caught:
        window.show(IMAGE, "wood")
    assert str(caught.value) == f"wood: cannot be shown, {reason}; save it instead"


@pytest.mark.usefixtures("nowhere")
def test_a_window_is_tried_in_a_process_of_its_own() -> None:
    reason = window._tried(":77")
    assert reason == "this OpenCV has no windows, opencv-python has" or reason.startswith("no window can be opened (")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have a display of their own")
def test_without_a_display_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert window.why_no_window() == "there is no display"
    assert window._tried("another").startswith("a window cannot be tried (")


@pytest.mark.parametrize("key", [ord("q"), 27])
def test_a_viewer_shows_until_it_is_closed(monkeypatch: pytest.MonkeyPatch, key: int) -> None:
    """Without windows of OpenCV's own: each image of a photograph stays half a second, the frames of a video do not."""
    done: list[object] = []
    keys = iter((-1, -1, key))
    monkeypatch.setattr(window, "why_no_window", lambda: "")
    monkeypatch.setattr(cv2, "namedWindow", lambda title, flags: done.append(title))
    monkeypatch.setattr(cv2, "imshow", lambda title, image: done.append(image.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: done.append(delay) or next(keys))
    monkeypatch.setattr(cv2, "destroyWindow", lambda title: done.append("closed"))
    viewer = window.open_viewer()
    assert viewer is not None
    for moving in (False, True, True, True):
        viewer.show(IMAGE, moving)
    viewer.close()
    assert done == ["yolov9k", IMAGE.shape, 500, IMAGE.shape, 1, IMAGE.shape, 1, "closed"]
