"""Predictions as files: annotated images and videos, label texts, one JSON."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from yolov9k.common.arrays import Image
from yolov9k.common.errors import UserError, check_range
from yolov9k.common.files import write_json
from yolov9k.common.progress import progress_bar
from yolov9k.common.timing import Speed
from yolov9k.engine.predict.predictor import Predictor
from yolov9k.engine.predict.sources import Source, open_source
from yolov9k.tasks import Result

THICKEST = 100  # pixels of a box's line
_WRITABLE = frozenset({".bmp", ".jpeg", ".jpg", ".jpe", ".png", ".tif", ".tiff", ".webp"})


@dataclass
class Summary:
    """What a prediction found and wrote. counts: what was found by class name, most frequent first; files: the media."""

    images: int = 0
    videos: int = 0
    frames: int = 0
    skipped: list[Path] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    speed: Speed = field(default_factory=Speed)

    @property
    def detections(self) -> int:
        return sum(self.counts.values())


class _Names:
    """File stems, none given twice (compared without case, as some file systems do)."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def claim(self, stem: str) -> str:
        candidate, number = stem, 2
        while candidate.lower() in self._taken:
            candidate, number = f"{stem}_{number}", number + 1
        self._taken.add(candidate.lower())
        return candidate


@dataclass
class _Drawing:
    labels: bool
    confidences: bool
    line_width: int | None

    def __call__(self, result: Result) -> Image:
        return result.draw(labels=self.labels, confidences=self.confidences, line_width=self.line_width)


class _VideoFile:
    """An mp4 that is opened with its first frame's size and appears under its name when it is complete and readable."""

    def __init__(self, path: Path, fps: float, image: Image) -> None:
        self.path, self.frames = path, 0
        self._partial = path.with_name(f"{path.stem}.partial.mp4")
        self._size = image.shape[1], image.shape[0]
        self._writer = cv2.VideoWriter(str(self._partial), cv2.VideoWriter.fourcc(*"mp4v"), fps, self._size)
        if not self._writer.isOpened():
            raise UserError(f"{path}: OpenCV cannot write an mp4 video here; check the folder and its free space")

    def add(self, image: Image) -> None:
        if (image.shape[1], image.shape[0]) != self._size:  # a stream may change its size; the file cannot
            image = cv2.resize(image, self._size)  # type: ignore[assignment]
        self._writer.write(image)
        self.frames += 1

    def close(self) -> None:
        self._writer.release()
        capture = cv2.VideoCapture(str(self._partial))
        readable = capture.isOpened() and capture.read()[0]
        capture.release()
        if not readable:
            raise UserError(f"{self.path}: the video that was written cannot be read again; check the free space")
        os.replace(self._partial, self.path)


class _Writer:
    """Writes results in the order of prediction; those of a video are consecutive."""

    def __init__(self, out: Path, draw: _Drawing | None, *, txt: bool, conf: bool, keep_json: bool) -> None:
        self.out, self.draw, self.txt, self.conf = out, draw, txt, conf
        self.rows: list[dict[str, Any]] | None = [] if keep_json else None
        self.counts: Counter[str] = Counter()
        self.summary = Summary()
        self._stems, self._label_stems = _Names(), _Names()
        self._video: _VideoFile | None = None
        self._video_stem = ""
        out.mkdir(parents=True, exist_ok=True)
        if txt:
            (out / "labels").mkdir(exist_ok=True)

    def add(self, result: Result) -> None:
        self.counts.update(result.found())
        self.summary.frames += 1
        if result.frame is None:
            self._add_image(result)
        else:
            self._add_frame(result)
        if self.rows is not None:
            self.rows.append(result.to_json())

    def _add_image(self, result: Result) -> None:
        self._end_video()
        self.summary.images += 1
        stem = self._stems.claim(result.path.stem)
        self._save_text(stem, result)
        if self.draw is None:
            return
        suffix = result.path.suffix if result.path.suffix.lower() in _WRITABLE else ".png"
        path = self.out / f"{stem}{suffix}"
        written, content = cv2.imencode(suffix, self.draw(result))
        if not written:
            raise UserError(f"{path}: OpenCV cannot encode a {suffix} image")
        _write(path, content.tobytes())
        self.summary.files.append(path)

    def _add_frame(self, result: Result) -> None:
        if result.frame == 0:
            self._end_video()
            self.summary.videos += 1
            self._video_stem = self._stems.claim(result.path.stem)
        self._save_text(f"{self._video_stem}_{result.frame}", result)
        if self.draw is None:
            return
        image = self.draw(result)
        if self._video is None:
            fps = getattr(getattr(result, "source", None), "fps", None) or 25.0
            self._video = _VideoFile(self.out / f"{self._video_stem}.mp4", fps, image)
        self._video.add(image)

    def _end_video(self) -> None:
        if self._video is not None:
            video, self._video = self._video, None
            video.close()
            self.summary.files.append(video.path)

    def _save_text(self, stem: str, result: Result) -> None:
        """Empty where nothing was found: that tells an image without objects from one that was not looked at."""
        if self.txt:
            path = self.out / "labels" / f"{self._label_stems.claim(stem)}.txt"
            _write(path, result.to_text(self.conf).encode())

    def close(self) -> None:
        """Finish the last video and write the JSON."""
        self._end_video()
        if self.rows is not None:
            write_json(self.out / "predictions.json", self.rows)


def _write(path: Path, content: bytes) -> None:
    """Write a whole file or none; unlike `write_atomically` without waiting for the disk, as there are thousands of them."""
    try:
        path.write_bytes(content)
    except OSError as error:
        path.unlink(missing_ok=True)  # not half of it
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def predict_to_folder(
    predictor: Predictor,
    source: str | Path | Source,
    out_dir: str | Path,
    *,
    save_txt: bool = False,
    save_conf: bool = False,
    save_json: bool = False,
    save_image: bool = True,
    hide_labels: bool = False,
    hide_conf: bool = False,
    line_width: int | None = None,
    max_frames: int | None = None,
    progress: bool = True,
) -> Summary:
    """Predict on all of `source` and write into out_dir.

    save_image: annotated images under their own names and an mp4 for each video; what shares its stem with an earlier
    one gets a suffix. save_txt: labels/STEM.txt (videos: STEM_FRAME.txt), with scores if save_conf. save_json:
    predictions.json, Result.to_json of every image. max_frames: of each video. An interruption leaves complete files
    and the JSON of what is done. Raises UserError.
    """
    if line_width is not None:
        check_range("line-thickness", line_width, 1, THICKEST)
    if max_frames is not None:
        check_range("max-frames", max_frames, 1)
    found = source if isinstance(source, Source) else open_source(source, max_frames)
    drawing = _Drawing(not hide_labels, not hide_conf, line_width) if save_image else None
    writer = _Writer(Path(out_dir), drawing, txt=save_txt, conf=save_conf, keep_json=save_json)
    with progress_bar(progress) as bar:
        task = bar.add_task("predicting", total=found.frame_count())
        try:
            for result in predictor(found):
                writer.add(result)
                bar.update(task, advance=1, description=result.path.name)
        finally:
            writer.close()
    summary = writer.summary
    summary.skipped, summary.speed = list(found.skipped), predictor.speed
    summary.counts = dict(writer.counts.most_common())
    return summary
