"""Predictions as files: annotated images and videos, label texts, one JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from yolov9k.common.arrays import Image
from yolov9k.common.errors import UserError, check_range, note, warn
from yolov9k.common.files import user_path, write_json, write_text
from yolov9k.common.progress import progress_bar
from yolov9k.common.result_names import folder_name, output_names
from yolov9k.common.timing import Speed
from yolov9k.common.window import Viewer, open_viewer
from yolov9k.config import PredictOptions
from yolov9k.data.images import write_image
from yolov9k.engine.predict.predictor import Predictor
from yolov9k.engine.predict.sources import Source, is_video, open_source
from yolov9k.engine.predict.video_file import USUAL_RATE, VideoFile
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


@dataclass
class _Drawing:
    labels: bool
    confidences: bool
    line_width: int | None

    def __call__(self, result: Result) -> Image:
        return result.draw(labels=self.labels, confidences=self.confidences, line_width=self.line_width)


class _Writer:
    """Writes results in the order of prediction; those of a video are consecutive. names: of each source's results."""

    def __init__(
        self, out: Path, draw: _Drawing, names: dict[Path, list[str]], *, save: bool, txt: bool, conf: bool, crop: bool,
        keep_json: bool, viewer: Viewer | None,
    ) -> None:  # fmt: skip
        self.out, self.draw, self.save, self.txt, self.conf, self.crop = out, draw, save, txt, conf, crop
        self.viewer = viewer
        self.rows: list[dict[str, Any]] | None = [] if keep_json else None
        self.counts: Counter[str] = Counter()
        self.summary = Summary()
        self._names, self._name = names, ""
        self._media_names: set[str] = set()
        self._taken = {name.casefold() for several in names.values() for name in several}
        self._video: VideoFile | None = None
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
            self.rows.append(result.to_record())

    def _add_image(self, result: Result) -> None:
        self._begin(result.path)
        self.summary.images += 1
        self._save_parts(self._name, result)
        image = self._shown(result)
        if image is None:
            return
        suffix = result.path.suffix if result.path.suffix.lower() in _WRITABLE else ".png"
        path = self._media(result.path, suffix)
        write_image(path, image)
        self.summary.files.append(path)

    def _add_frame(self, result: Result) -> None:
        if result.frame == 0:
            self._begin(result.path)
            self.summary.videos += 1
        self._save_parts(f"{self._name}_{(result.frame or 0) + 1}", result)
        image = self._shown(result)
        if image is None:
            return
        if result.frame == 0:
            self._video = self._open_video(self._media(result.path, ".mp4"), result, image)
        if self._video is not None:
            self._video.add(image, _of_frame(result, "time"))

    def _shown(self, result: Result) -> Image | None:
        """The drawn image, shown where there is a window; None where none is to be saved."""
        if not self.save and self.viewer is None:
            return None
        image = self.draw(result)
        if self.viewer is not None:
            self.viewer.show(image, moving=result.frame is not None)
        return image if self.save else None

    def _begin(self, source: Path) -> None:
        """End the video before, and take the name of the results of the next source."""
        self._end_video()
        self._name = self._names[source].pop(0) if self._names.get(source) else self._free_name(source)

    def _free_name(self, source: Path) -> str:
        """The stem of a source that no name was chosen for beforehand, with a number where it is taken."""
        stem = source.stem
        candidates = chain([stem], (f"{stem}_{number}" for number in count(2)))
        name = next(one for one in candidates if one.casefold() not in self._taken)
        self._taken.add(name.casefold())
        return name

    def _media(self, source: Path, suffix: str) -> Path:
        """Where the drawn image or video goes; a name that holds its suffix already needs no second one."""
        has_suffix = Path(self._name).name == source.name and source.suffix == suffix
        free = self._name.casefold() not in self._media_names
        name = self._name if has_suffix and free else f"{self._name}{suffix}"
        self._media_names.add(name.casefold())
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _open_video(self, path: Path, result: Result, image: Image) -> VideoFile | None:
        """None, with a warning, where such a video cannot be written: the other results go on."""
        try:
            return VideoFile(path, _of_frame(result, "fps") or USUAL_RATE, image)
        except UserError as error:
            warn(f"{error}; it is left out")
            return None

    def _end_video(self) -> None:
        if self._video is not None:
            video, self._video = self._video, None
            video.close()
            self.summary.files.append(video.path)

    def _save_parts(self, name: str, result: Result) -> None:
        """Labels, empty where nothing was found: that tells an image without objects from one that was not looked at. Crops."""
        if self.txt:
            write_text(self.out / "labels" / f"{name}.txt", result.to_text(self.conf))
        for number, (found, image) in enumerate(result.crops() if self.crop else (), 1):
            if image.size:
                path = self.out / "crops" / folder_name(found) / f"{name}_{number}.jpg"
                write_image(path, image)

    def close(self) -> None:
        """Finish the last video, write the JSON and close the window."""
        self._end_video()
        if self.viewer is not None:
            self.viewer.close()
        if self.rows is not None:
            write_json(self.out / "predictions.json", self.rows)


def _of_frame(result: Result, fact: str) -> float | None:
    """What the source knows of a video's frame, None where the task's results do not keep their source."""
    known: float | None = getattr(getattr(result, "source", None), fact, None)
    return known


def _names_of(source: Source) -> dict[Path, list[str]]:
    """Names of the results of each source, several where it is given several times; one line where they are not the stems."""
    names: dict[Path, list[str]] = {}
    unlike = ""
    for path, name in zip(source.paths, output_names(source.paths, is_video), strict=True):
        names.setdefault(path, []).append(name)
        unlike = unlike or (f"{name} for {path}" if name != path.stem else "")
    if unlike:
        note(f"sources share their names: results of some have longer ones, such as {unlike}")
    return names


def _make_writer(
    out_dir: str | Path,
    source: Source | None,
    *,
    save_txt: bool,
    save_conf: bool,
    save_crop: bool,
    save_json: bool,
    view: bool,
    save_image: bool,
    hide_labels: bool,
    hide_conf: bool,
    line_width: int | None,
) -> _Writer:
    if line_width is not None:
        check_range("line-thickness", line_width, 1, THICKEST)
    names = {} if source is None else _names_of(source)
    return _Writer(
        user_path(out_dir), _Drawing(not hide_labels, not hide_conf, line_width), names, save=save_image, txt=save_txt,
        conf=save_conf, crop=save_crop, keep_json=save_json, viewer=open_viewer() if view else None,
    )  # fmt: skip


def writing(options: PredictOptions) -> dict[str, Any]:
    """What is to be written, as keywords of `predict_to_folder` and `results_written`."""
    return {
        "save_txt": options.save_txt, "save_conf": options.save_conf, "save_crop": options.save_crop,
        "save_json": options.save_json, "view": options.view_img, "save_image": not options.nosave,
        "hide_labels": options.hide_labels, "hide_conf": options.hide_conf, "line_width": options.line_thickness,
    }  # fmt: skip


def results_written(results: Iterable[Result], out_dir: str | Path, source: Source | None, **what: Any) -> Iterator[Result]:
    """Results as they come, each written into out_dir on its way, as `predict_to_folder` does; what: as `writing` gives it.

    source: where they come from, None where these are no files: then images are called image0 and so on. Raises UserError.
    """
    writer = _make_writer(out_dir, source, **what)
    try:
        for result in results:
            writer.add(result)
            yield result
    finally:
        writer.close()


def results_shown(results: Iterable[Result]) -> Iterator[Result]:
    """Results as they come, each shown in a window where there is a display."""
    viewer = open_viewer()
    try:
        for result in results:
            if viewer is not None:
                viewer.show(result.draw(), moving=result.frame is not None)
            yield result
    finally:
        if viewer is not None:
            viewer.close()


def predict_to_folder(
    predictor: Predictor,
    source: str | Path | Source,
    out_dir: str | Path,
    *,
    save_txt: bool = False,
    save_conf: bool = False,
    save_crop: bool = False,
    save_json: bool = False,
    view: bool = False,
    save_image: bool = True,
    hide_labels: bool = False,
    hide_conf: bool = False,
    line_width: int | None = None,
    max_frames: int | None = None,
    progress: bool = True,
) -> Summary:
    """Predict on all of `source` and write into out_dir.

    save_image: annotated images under their own names and an mp4 for each video. save_txt: labels/STEM.txt (videos:
    STEM_FRAME.txt, frames from 1), with scores if save_conf. Where two sources share their stem, subfolders are kept and, if
    that is not enough, suffixes (`output_names`), which is said. save_json: predictions.json, Result.to_record of every image.
    save_crop: crops/CLASS/STEM_NUMBER.jpg of each box. view: a window shows what comes, where there is a display.
    max_frames: of each video. An interruption leaves complete files and the JSON of what is done. Raises UserError.
    """
    if max_frames is not None:
        check_range("max-frames", max_frames, 1)
    found = source if isinstance(source, Source) else open_source(source, max_frames)
    writer = _make_writer(
        out_dir, found, save_txt=save_txt, save_conf=save_conf, save_crop=save_crop, save_json=save_json, view=view,
        save_image=save_image, hide_labels=hide_labels, hide_conf=hide_conf, line_width=line_width,
    )  # fmt: skip
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
