"""A window, or a notebook's cell, that shows images."""

from __future__ import annotations

import functools
import importlib
import os
import re
import subprocess
import sys

import cv2
from PIL import Image as PillowImage

from yolov9k.common.arrays import Image
from yolov9k.common.errors import UserError, one_line, warn

TITLE = "yolov9k"
_STILL, _MOVING = 500, 1  # milliseconds for which an image stays at least, and a video's frame
_END_KEYS = (ord("q"), 27)
_PROBE = "import cv2; cv2.namedWindow('yolov9k'); cv2.waitKey(1)"
_NO_WINDOWS = "this OpenCV has no windows, opencv-python has"  # unlike opencv-python-headless


def why_no_window() -> str:
    """Why no window can be opened here, empty where one can."""
    displays = os.environ.get("DISPLAY"), os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not any(displays):
        return "there is no display"
    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        return _NO_WINDOWS
    return _tried(*displays)


@functools.cache
def _tried(*displays: str | None) -> str:
    """The same, tried on these displays in a process of its own: toolkits end theirs where a display does not answer."""
    try:
        tried = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"a window cannot be tried ({one_line(str(error), 80)})"
    if "not implemented" in tried.stderr:
        return _NO_WINDOWS
    said = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
    return "" if tried.returncode == 0 else f"no window can be opened ({one_line(said, 80)})"


def show(image: Image, title: str = TITLE) -> None:
    """Show an image (uint8 [H, W, 3] BGR): in a notebook in its cell, else in a window until the next call.

    Raises UserError where there is neither.
    """
    if _in_notebook():
        importlib.import_module("IPython.display").display(PillowImage.fromarray(image[..., ::-1]))
        return
    if reason := why_no_window():
        raise UserError(f"{title}: cannot be shown, {reason}; save it instead")
    cv2.imshow(title, image)
    cv2.waitKey(1)


def _in_notebook() -> bool:
    """Whether this is a kernel of Jupyter's."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


class Viewer:
    """A window that shows images one after another until the user closes it by q or Esc; what predicts goes on."""

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
    """A viewer; None, with one line that says why, where no window can be opened."""
    if reason := why_no_window():
        warn(f"--view-img: {reason}; look at the images in the run directory")
        return None
    return Viewer()
