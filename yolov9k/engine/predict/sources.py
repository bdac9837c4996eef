"""Images and videos to predict on: files, folders, patterns and lists, read one frame after the other."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from yolov9k.common.arrays import Image
from yolov9k.common.errors import DATA, UserError, failing_as, shown, warn
from yolov9k.common.files import open_regular, plain_path
from yolov9k.common.paths import PathFinder, given_path
from yolov9k.common.text import read_text
from yolov9k.data.headers import pixel_limit
from yolov9k.data.images import read_image
from yolov9k.data.probe import SUFFIXES, find_matches, warn_of_others

_VIDEOS = "asf avi flv gif m4v mkv mov mp4 mpeg mpg ts webm wmv"
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _VIDEOS.split())
IMAGE_SUFFIXES = SUFFIXES - VIDEO_SUFFIXES
_ADDRESSES = ("http://", "https://", "ftp://", "s3://", "gs://")
_KNOWN = f"known are images ({' '.join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))}) and videos ({_VIDEOS})"


@dataclass(frozen=True)
class Frame:
    """An image: image uint8 [H, W, 3] BGR. Of a video: number from 0, frames a second, frames in all (0: unknown), seconds."""

    path: Path
    image: Image
    index: int | None = None
    fps: float | None = None
    total: int = 1
    time: float | None = None


@dataclass
class Source:
    """Frames of all `paths`. One that cannot be read is skipped with a warning and noted, unless it is alone."""

    paths: list[Path]
    max_frames: int | None = None  # of each video
    stride: int = 1  # of a video's frames every so many-th is taken
    skipped: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        self.skipped.clear()
        with failing_as(DATA):
            for path in self.paths:
                yield from self._read(path)
            if self.paths and len(self.skipped) == len(self.paths):
                raise UserError(f"{self.paths[0].parent}: none of the {len(self.paths)} files could be read")

    def _read(self, path: Path) -> Iterator[Frame]:
        try:
            if is_video(path):
                yield from video_frames(path, self.max_frames, self.stride)
            else:
                notes: list[str] = []
                image = read_image(path, truncated=True, notes=notes)
                for note in notes:
                    warn(f"{path}: the image {note}")
                yield Frame(path, image)
        except UserError as error:
            if len(self.paths) == 1:
                raise
            self.skipped.append(path)
            warn(f"skipped: {error}")

    def frame_count(self) -> int | None:
        """Frames in all as the files' headers say, None where a video does not tell."""
        counts = [_video_length(path, self.max_frames, self.stride) if is_video(path) else 1 for path in self.paths]
        return sum(count for count in counts if count) if all(counts) else None


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


@failing_as(DATA)
def open_source(source: str | Path, max_frames: int | None = None, stride: int = 1) -> Source:
    """Find what `source` names: an image, a video, a folder (not its subfolders), a glob pattern (** allowed) or a
    .txt file with a path on each line, relative to that file. What exists under that very name is taken before it is thought
    a pattern or a stream. Files of other formats are counted in a warning. max_frames, stride: of each video at most so many
    frames, every so many-th. Raises UserError where there is nothing to read."""
    text = str(source)
    if not text.strip():
        raise UserError("--source: empty; give a file, a folder, a pattern or a .txt list")
    path = given_path(source)
    if os.path.isdir(path):
        inside = [path / name for name in sorted(os.listdir(path))]
        return Source(_chosen(inside, path, "the folder has no image or video in it"), max_frames, stride)
    if not os.path.lexists(path):
        if found := find_matches(str(path), Path()):
            return Source(_chosen(found, text, "no image or video matches the pattern"), max_frames, stride)
        raise UserError(f"{text}: {_why_nothing(text)}")
    if path.suffix.lower() == ".txt":
        return Source(_listed(path), max_frames, stride)
    _check_suffix(path, f"{path}: ")
    return Source([path], max_frames, stride)


def _why_nothing(text: str) -> str:
    if text.lower().startswith(_ADDRESSES):
        return "nothing is fetched from the network; download it and give the file"
    if "://" in text or text.isdigit() or text.split()[0] == "screen":
        return "streams are not supported; give a file, a folder, a pattern or a .txt list"
    return "no image or video matches the pattern" if set("*?[") & set(text) else "no such file or folder"


def _chosen(paths: Iterable[Path], place: object, complaint: str) -> list[Path]:
    """Images and videos among `paths`; hidden files and folders are none, others are counted in a warning."""
    files = [path for path in paths if not path.name.startswith(".") and not os.path.isdir(path)]
    chosen = [path for path in files if _is_known(path)]
    if not chosen:
        raise UserError(f"{place}: {complaint}; {_KNOWN}")
    warn_of_others(place, Counter(path.suffix.lower() for path in files if not _is_known(path)))
    return chosen


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def _check_suffix(path: Path, where: str) -> None:
    if not _is_known(path):
        raise UserError(f"{where}'{path.suffix}' is no known format; {_KNOWN}")


def _listed(path: Path) -> list[Path]:
    chosen, finder = [], PathFinder()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        entry = finder.find(line.strip(), (path.parent, Path.cwd()), os.path.isfile)
        if entry is None:
            raise UserError(f"{path}:{number}: no such file {shown(str(path.parent / line.strip()), 200)}; correct the line")
        _check_suffix(entry, f"{path}:{number}: {entry.name}: ")
        chosen.append(entry)
    if not chosen:
        raise UserError(f"{path}: no image or video is listed; {_KNOWN}")
    return chosen


def _open_video(path: Path) -> cv2.VideoCapture:
    try:
        open_regular(path).close()  # OpenCV would wait for a pipe
    except OSError as error:
        raise UserError(f"{path}: cannot read the video ({error.strerror or error})") from None
    with plain_path(path) as name:
        capture = cv2.VideoCapture(name)
    if not capture.isOpened():
        raise UserError(f"{path}: cannot open the video; it is damaged or its codec is unknown to OpenCV")
    if capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT) > pixel_limit():
        capture.release()
        raise UserError(f"{path}: a frame has more than {pixel_limit():,} pixels; scale the video down")
    return capture


def camera_frames(number: int) -> Iterator[Frame]:
    """Frames of the camera that OpenCV knows by a number, for as long as it gives any. Raises UserError where there is none."""
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise UserError(f"camera {number}: OpenCV cannot open it; give another number, or a video file")
    return _until_the_end(capture, Path(f"camera{number}"))


def _until_the_end(capture: cv2.VideoCapture, path: Path) -> Iterator[Frame]:
    try:
        fps, began = capture.get(cv2.CAP_PROP_FPS) or None, time.monotonic()
        for index in itertools.count():
            read, image = capture.read()
            if not read:
                return
            yield Frame(path, np.asarray(image, np.uint8), index, fps, 0, time.monotonic() - began)
    finally:
        capture.release()


def _length(capture: cv2.VideoCapture, max_frames: int | None, stride: int) -> int:
    """Frames that are taken, by the header; 0 where it does not tell."""
    total = -(-max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0) // stride)
    return min(total, max_frames) if max_frames else total


def _video_length(path: Path, max_frames: int | None, stride: int) -> int:
    try:
        capture = _open_video(path)
    except UserError:
        return 0  # reported when it is read
    try:
        return _length(capture, max_frames, stride)
    finally:
        capture.release()


def video_frames(path: str | Path, max_frames: int | None = None, stride: int = 1) -> Iterator[Frame]:
    """Frames of a video in order, every stride-th under its own number, at a rate as much lower.

    Raises UserError when none can be decoded; warns when it ends early.
    """
    path = Path(path)
    capture = _open_video(path)
    taken = 0
    try:
        fps, total = capture.get(cv2.CAP_PROP_FPS) or 25.0, _length(capture, max_frames, stride)
        while max_frames is None or taken < max_frames:
            read, image = capture.read()
            if not read:
                break
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield Frame(path, np.asarray(image, np.uint8), taken * stride, fps / stride, total, seconds)
            taken += 1
            for _ in range(stride - 1):
                capture.grab()
    finally:
        capture.release()
    if taken == 0:
        raise UserError(f"{path}: no frame can be decoded; the video is damaged or its codec is unknown to OpenCV")
    if taken < total:
        warn(f"{path}: the video ends after {taken} frames, its header says {total}")
