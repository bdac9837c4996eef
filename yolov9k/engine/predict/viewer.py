"""A window that shows results while they come."""

from __future__ import annotations

import subprocess
import sys

import cv2

from yolov9k.common.arrays import Image
from yolov9k.common.errors import one_line, warn
from yolov9k.common.window import why_no_display

TITLE = "yolov9k"
_STILL, _MOVING = 500, 1  # milliseconds for which an image stays at least, and a video's frame
_END_KEYS = (ord("q"), 27)
_PROBE = "import cv2; cv2.namedWindow('yolov9k'); cv2.waitKey(1)"


class Viewer:
    """Shows images one after another until the user closes it by q or Esc; what predicts goes on."""

    def __init__(self) -> None:
        self.open = True
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL)

    def show(self, image: Image, moving: bool = False) -> None:
        """Show a uint8 [H, W, 3] BGR image; moving: it is one of a video's."""
        if not self.open:
            return
        cv2.imshow(TITLE, image)
        if cv2.waitKey(_MOVING if moving else _STILL) & 0xFF in _END_KEYS:
            self.close()

    def close(self) -> None:
        """Close the window."""
        if self.open:
            self.open = False
            cv2.destroyWindow(TITLE)


def open_viewer() -> Viewer | None:
    """A viewer; None, with one line that says why, where there is no display or OpenCV has no windows."""
    if why := _why_none():
        warn(f"--view-img: {why}; look at the images in the run directory")
        return None
    return Viewer()


def _why_none() -> str:
    """Tried in a process of its own: toolkits end theirs where a display does not answer."""
    if why := why_no_display():
        return why
    try:
        tried = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"a window cannot be tried ({one_line(str(error), 80)})"
    if "not implemented" in tried.stderr:
        return "this OpenCV has no windows; install opencv-python in place of opencv-python-headless"
    said = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
    return "" if tried.returncode == 0 else f"no window can be opened ({one_line(said, 80)})"
