"""A window, or a notebook's cell, that shows an image."""

from __future__ import annotations

import importlib
import os
import re
import sys

import cv2
from PIL import Image as PillowImage

from yolov9k.common.arrays import Image
from yolov9k.common.errors import UserError


def why_no_window() -> str:
    """Why no window can be opened here, empty where one can as far as it is known beforehand."""
    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        return "this OpenCV has no windows (opencv-python-headless)"
    return why_no_display()


def why_no_display() -> str:
    """Why there is nothing to show a window on, empty where there is something or the system has no such variable."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display"
    return ""


def show(image: Image, title: str = "yolov9k") -> None:
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
