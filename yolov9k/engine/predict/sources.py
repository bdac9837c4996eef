"""Images and videos to predict on: files, folders, patterns and lists, read one frame after the other."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from yolov9k.common.arrays import Image
from yolov9k.common.errors import UserError, shown, warn
from yolov9k.common.files import user_path
from yolov9k.common.paths import PathFinder
from yolov9k.common.text import read_text
from yolov9k.data.images import read_image

_IMAGES = "avif bmp dib jp2 jpeg jpg jpe pbm pgm png ppm tif tiff webp"
_VIDEOS = "asf avi flv gif m4v mkv mov mp4 mpeg mpg ts webm wmv"
IMAGE_SUFFIXES, VIDEO_SUFFIXES = (frozenset(f".{suffix}" for suffix in text.split()) for text in (_IMAGES, _VIDEOS))
_KNOWN = f"known are images ({_IMAGES}) and videos ({_VIDEOS})"


@dataclass(frozen=True)
class Frame:
    """An image: image uint8 [H, W, 3] BGR. Of a video: number from 0, frames a second, frames in all (0: unknown)."""

    path: Path
    image: Image
    index: int | None = None
    fps: float | None = None
    total: int = 1


@dataclass
class Source:
    """Frames of all `paths`. One that cannot be read is skipped with a warning and noted, unless it is alone."""

    paths: list[Path]
    max_frames: int | None = None  # of each video
    skipped: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        self.skipped.clear()
        for path in self.paths:
            yield from self._read(path)
        if self.paths and len(self.skipped) == len(self.paths):
            raise UserError(f"{self.paths[0].parent}: none of the {len(self.paths)} files could be read")

    def _read(self, path: Path) -> Iterator[Frame]:
        try:
            if is_video(path):
                yield from video_frames(path, self.max_frames)
            else:
                yield Frame(path, read_image(path, truncated=True))
        except UserError as error:
            if len(self.paths) == 1:
                raise
            self.skipped.append(path)
            warn(f"skipped: {error}")

    def frame_count(self) -> int | None:
        """Frames in all as the files' headers say, None where a video does not tell."""
        counts = [_video_length(path, self.max_frames) if is_video(path) else 1 for path in self.paths]
        return sum(count for count in counts if count) if all(counts) else None


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def open_source(source: str | Path, max_frames: int | None = None) -> Source:
    """Find what `source` names: an image, a video, a folder (not its subfolders), a glob pattern (** allowed) or a
    .txt file with a path on each line, relative to that file. Raises UserError where there is nothing to read."""
    text = str(source)
    if not text.strip():
        raise UserError("--source: empty; give a file, a folder, a pattern or a .txt list")
    if "://" in text or text.isdigit() or text.split()[0] == "screen":
        raise UserError(f"{text}: streams are not supported; give a file, a folder, a pattern or a .txt list")
    path = user_path(source)
    if os.path.isdir(path):
        return Source(_known(sorted(path.iterdir()), f"{path}: the folder has no image or video in it"), max_frames)
    if not os.path.exists(path):
        if not glob.has_magic(text):
            raise UserError(f"{text}: no such file or folder")
        found = sorted(map(Path, glob.glob(str(path), recursive=True)))
        return Source(_known(found, f"{text}: no image or video matches the pattern"), max_frames)
    if path.suffix.lower() == ".txt":
        return Source(_listed(path), max_frames)
    if path.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise UserError(f"{path}: '{path.suffix}' is no known format; {_KNOWN}")
    return Source([path], max_frames)


def _known(paths: list[Path], complaint: str) -> list[Path]:
    chosen = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and p.is_file()]
    if not chosen:
        raise UserError(f"{complaint}; {_KNOWN}")
    return chosen


def _listed(path: Path) -> list[Path]:
    chosen, finder = [], PathFinder()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        found = finder.find(line.strip(), (path.parent, Path.cwd()), os.path.isfile)
        if found is None:
            raise UserError(f"{path}:{number}: no such file {shown(str(path.parent / line.strip()), 200)}; correct the line")
        chosen.append(found)
    return _known(chosen, f"{path}: no image or video is listed")


def _open_video(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise UserError(f"{path}: cannot open the video; it is damaged or its codec is unknown to OpenCV")
    return capture


def _length(capture: cv2.VideoCapture, max_frames: int | None) -> int:
    """Frames by the header, 0 where it does not tell."""
    total = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
    return min(total, max_frames) if max_frames else total


def _video_length(path: Path, max_frames: int | None) -> int:
    try:
        capture = _open_video(path)
    except UserError:
        return 0  # reported when it is read
    try:
        return _length(capture, max_frames)
    finally:
        capture.release()


def video_frames(path: str | Path, max_frames: int | None = None) -> Iterator[Frame]:
    """Frames of a video in order. Raises UserError when none can be decoded; warns when it ends early."""
    path = Path(path)
    capture = _open_video(path)
    index = 0
    try:
        fps, total = capture.get(cv2.CAP_PROP_FPS) or 25.0, _length(capture, max_frames)
        while max_frames is None or index < max_frames:
            read, image = capture.read()
            if not read:
                break
            yield Frame(path, np.asarray(image, np.uint8), index, fps, total)
            index += 1
    finally:
        capture.release()
    if index == 0:
        raise UserError(f"{path}: no frame can be decoded; the video is damaged or its codec is unknown to OpenCV")
    if index < total:
        warn(f"{path}: the video ends after {index} frames, its header says {total}")
