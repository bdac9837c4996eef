"""A video that is written frame after frame."""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2

from yolov9k.common.arrays import Image
from yolov9k.common.errors import UserError, note
from yolov9k.common.files import plain_path

USUAL_RATE = 25.0  # frames a second, where a video does not tell
_MOST_TICKS = 65535  # MPEG-4 holds a rate as a fraction of 16 bits
_LONGEST_GAP = 60.0  # seconds for which a frame is repeated at most: damaged files state times of years


def writable_rate(fps: float) -> float:
    """The rate nearest to `fps` frames a second that MPEG-4 holds, in thousandths where there is room for them."""
    fps = min(max(fps, 0.01), float(_MOST_TICKS)) if math.isfinite(fps) and fps > 0 else USUAL_RATE
    return next(round(fps, digits) for digits in (3, 2, 1, 0) if round(fps * 10**digits) <= _MOST_TICKS)


class VideoFile:
    """An mp4 of constant rate that appears under its name when it is complete and readable.

    It has the first frame's size, made even by a repeated row or column as its codec asks. A frame whose time is later than
    the rate says comes after repetitions of the one before, so that the video plays as long as it was recorded.
    """

    def __init__(self, path: Path, fps: float, image: Image) -> None:
        """Raises UserError where OpenCV cannot write such a video."""
        self.path, self.fps, self.frames, self.repeated = path, writable_rate(fps), 0, 0
        self._partial = path.with_name(f"{path.stem}.partial.mp4")
        self._shape = image.shape[:2]
        self._start: float | None = None
        self._last = image
        height, width = (side + side % 2 for side in self._shape)
        with plain_path(self._partial) as name:
            self._writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), self.fps, (width, height))
        if not self._writer.isOpened():
            self._partial.unlink(missing_ok=True)
            what = f"{width} x {height} pixels at {self.fps:g} frames a second"
            raise UserError(f"{path}: OpenCV cannot write an mp4 video of {what} here")

    def add(self, image: Image, seconds: float | None = None) -> None:
        """Append a frame; seconds: its time from any beginning, None where it follows at the video's rate."""
        if seconds is not None and math.isfinite(seconds):
            self._repeat_until(seconds)
        if image.shape[:2] != self._shape:  # a stream may change its size; the file cannot
            image = cv2.resize(image, self._shape[::-1])  # type: ignore[assignment]
        self._last = image
        self._write()

    def _repeat_until(self, seconds: float) -> None:
        if self._start is None:
            self._start = seconds
        missing = round((seconds - self._start) * self.fps) - self.frames
        most = round(_LONGEST_GAP * self.fps)
        if missing > most:
            self._start += (missing - most) / self.fps
        for _ in range(min(missing, most)):
            self.repeated += 1
            self._write()

    def _write(self) -> None:
        bottom, right = (side % 2 for side in self._shape)
        self._writer.write(cv2.copyMakeBorder(self._last, 0, bottom, 0, right, cv2.BORDER_REPLICATE))
        self.frames += 1

    def close(self) -> None:
        """Finish the file. Raises UserError where it cannot be read again."""
        self._writer.release()
        with plain_path(self._partial) as name:
            capture = cv2.VideoCapture(name)
        readable = capture.isOpened() and capture.read()[0]
        capture.release()
        if not readable:
            raise UserError(f"{self.path}: the video that was written cannot be read again; check the free space")
        os.replace(self._partial, self.path)
        if self.repeated:
            note(f"{self.path}: of a varying rate; {self.repeated} frames are repeated so that it plays as long as the source")
