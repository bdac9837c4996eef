"""What was detected in one image."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from yolov9k.common import window
from yolov9k.common.arrays import Image
from yolov9k.common.errors import UserError, warn
from yolov9k.common.files import user_path
from yolov9k.common.result_names import folder_name
from yolov9k.data.draw import class_name, crop, draw_boxes
from yolov9k.data.images import write_image
from yolov9k.tasks.detect.boxes import Boxes, Names


@dataclass
class Result:
    """What was found in one image, best first.

    image: uint8 [H, W, 3] BGR, as it was read; boxes: float32 [n, 4] x1 y1 x2 y2 in its pixels, with the fields of `Boxes`
    (`boxes.xyxy`, `boxes.conf` ...); scores: float32 [n]; classes: int64 [n]. frame: the number in a video, from 0, else
    None. speed: milliseconds an image of the pass it came from: preprocess, inference, postprocess.

    Names and meanings of what is not ours first are those of Ultralytics' results; other tasks' parts are None.
    """

    path: Path
    image: Image = field(repr=False)
    boxes: Boxes | NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    names: Sequence[str] = field(repr=False)
    frame: int | None = None
    source: Any = field(default=None, repr=False)
    speed: dict[str, float] = field(default_factory=dict, repr=False)

    masks: ClassVar[None] = None
    probs: ClassVar[None] = None
    keypoints: ClassVar[None] = None
    obb: ClassVar[None] = None

    def __post_init__(self) -> None:
        self.names = self.names if isinstance(self.names, Names) else Names(self.names)
        if not isinstance(self.boxes, Boxes) or self.boxes._rows is None:
            self.boxes = Boxes.of(self.boxes, self.scores, self.classes, self.orig_shape)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> Result:
        """The result of some boxes alone: a number, a slice, a mask or numbers."""
        chosen = np.atleast_1d(np.arange(len(self))[index.cpu().numpy() if isinstance(index, torch.Tensor) else index])
        return replace(self, boxes=self.boxes[chosen], scores=self.scores[chosen], classes=self.classes[chosen])

    def __iter__(self) -> Iterator[Result]:
        return (self[number] for number in range(len(self)))

    @property
    def orig_img(self) -> Image:
        """The image."""
        return self.image

    @property
    def orig_shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[0], self.image.shape[1]

    def found(self) -> list[str]:
        """Class names of what was found, one for each box."""
        return [class_name(self.names, int(index)) for index in self.classes]

    def cpu(self) -> Result:
        """With fields of the boxes on the host."""
        return replace(self, boxes=self._fields().cpu())

    def cuda(self) -> Result:
        """With fields of the boxes on the GPU."""
        return replace(self, boxes=self._fields().cuda())

    def numpy(self) -> Result:
        """With fields of the boxes that are arrays."""
        return replace(self, boxes=self._fields().numpy())

    def to(self, *args: Any, **kwargs: Any) -> Result:
        """With fields of the boxes moved as `Tensor.to` moves them."""
        return replace(self, boxes=self._fields().to(*args, **kwargs))

    def _fields(self) -> Boxes:
        assert isinstance(self.boxes, Boxes)  # as __post_init__ makes them
        return self.boxes

    def draw(self, *, labels: bool = True, confidences: bool = True, line_width: int | None = None) -> Image:
        """A copy of the image with the boxes on it."""
        return self._drawn_on(self.image.copy(), labels, confidences, line_width)

    def _drawn_on(self, image: Image, labels: bool, confidences: bool, line_width: int | None) -> Image:
        return draw_boxes(
            image, np.asarray(self.boxes), self.classes, self.names, self.scores,
            labels=labels, confidences=confidences, line_width=line_width,
        )  # fmt: skip

    def plot(
        self,
        conf: bool = True,
        line_width: float | None = None,
        *,
        labels: bool = True,
        boxes: bool = True,
        pil: bool = False,
        img: Image | None = None,
        show: bool = False,
        save: bool = False,
        filename: str | Path | None = None,
        **others: Any,
    ) -> Any:
        """The image, or `img` (uint8 BGR) in its place, with the boxes on it: uint8 [H, W, 3] BGR, a Pillow image if `pil`.

        conf, labels: whether scores and names are written; show, save, filename: as the methods. What else Ultralytics'
        takes has no effect and is named. Raises UserError.
        """
        if others:
            warn(f"plot: {', '.join(others)}: without effect")
        image = (self.image if img is None else img).copy()
        drawn = self._drawn_on(image, labels, conf, None if line_width is None else round(line_width)) if boxes else image
        if show:
            window.show(drawn, str(self.path))
        if save:
            self._save(drawn, filename)
        return PillowImage.fromarray(drawn[..., ::-1]) if pil else drawn

    def show(self, **plot: Any) -> None:
        """Show the drawn image in a window or a notebook; arguments as of `plot`. Raises UserError where there is neither."""
        self.plot(**{**plot, "show": True})

    def save(self, filename: str | Path | None = None, **plot: Any) -> str:
        """Write the drawn image, by default to results_NAME, and return the path; arguments as of `plot`. Raises UserError."""
        return self._save(self.plot(**{**plot, "pil": False}), filename)

    def _save(self, drawn: Image, filename: str | Path | None) -> str:
        path = user_path(filename if filename is not None else f"results_{self.path.name}")
        path = path if path.suffix else path.with_suffix(".jpg")
        write_image(path, drawn)
        return str(path)

    def save_txt(self, txt_file: str | Path, save_conf: bool = False) -> str:
        """Append a line of a YOLO label for each box, with scores if save_conf. Returns the path; raises UserError."""
        return _write(user_path(txt_file), self.to_yolo_text(save_conf).encode(), append=True) if len(self) else str(txt_file)

    def save_crop(self, save_dir: str | Path, file_name: str | Path = "im.jpg") -> list[Path]:
        """Write each box's part of the image, somewhat larger than the box, to SAVE_DIR/CLASS/FILE_NAME.

        The second one of a name gets a number. Returns the paths; raises UserError.
        """
        paths = []
        for name, image in self.crops():
            if image.size:
                file = Path(file_name).with_suffix(Path(file_name).suffix or ".jpg").name
                paths.append(_free(user_path(save_dir) / folder_name(name) / file))
                write_image(paths[-1], image)
        return paths

    def crops(self) -> list[tuple[str, Image]]:
        """Class name and part of the image of each box, a little larger than the box as published."""
        return [(name, crop(self.image, box)) for name, box in zip(self.found(), np.asarray(self.boxes), strict=True)]

    def to_yolo_text(self, conf: bool = False) -> str:
        """A line for each box: class, center x, center y, width, height as shares of the image, score if `conf`."""
        return yolo_text(self.classes, np.asarray(self.boxes), self.orig_shape, self.scores if conf else None)

    def to_text(self, conf: bool = False) -> str:
        """`to_yolo_text`."""
        return self.to_yolo_text(conf)

    def to_record(self) -> dict[str, Any]:
        """Ready for json.dumps: path, frame, width, height, detections (class, name, score, box x1 y1 x2 y2 in px)."""
        rows = zip(self.classes, self.scores, np.asarray(self.boxes), strict=True)
        detections = [
            {
                "class": int(index),
                "name": class_name(self.names, int(index)),
                "score": round(float(score), 5),
                "box": [round(float(value), 3) for value in box],
            }
            for index, score, box in rows
        ]
        height, width = self.orig_shape
        return {"path": str(self.path), "frame": self.frame, "width": width, "height": height, "detections": detections}

    def to_dict(self) -> dict[str, torch.Tensor]:
        """As torchvision's detectors give it: boxes float32 [n, 4] in pixels, labels int64 [n], scores float32 [n]."""
        boxes, scores = np.array(self.boxes, np.float32), np.array(self.scores, np.float32)
        labels = torch.from_numpy(np.array(self.classes, np.int64))
        return {"boxes": torch.from_numpy(boxes), "labels": labels, "scores": torch.from_numpy(scores)}

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:
        """A row for each box: name, class, confidence, box (x1 y1 x2 y2 in pixels, as shares of the image if `normalize`)."""
        height, width = self.orig_shape
        corners = np.asarray(self.boxes, np.float64) / ([width, height, width, height] if normalize else 1)
        return [
            {
                "name": class_name(self.names, int(index)),
                "class": int(index),
                "confidence": round(float(score), decimals),
                "box": {key: round(value, decimals) for key, value in zip(("x1", "y1", "x2", "y2"), box, strict=True)},
            }
            for index, score, box in zip(self.classes, self.scores, corners.tolist(), strict=True)
        ]

    def to_json(self, normalize: bool = False, decimals: int = 5) -> str:
        """`summary` as a JSON text."""
        return json.dumps(self.summary(normalize, decimals), indent=2)

    def to_df(self, normalize: bool = False, decimals: int = 5) -> Any:
        """`summary` as a data frame of pandas. Raises UserError where pandas is not installed."""
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise UserError("to_df: pandas is not installed; pip install pandas, or take result.summary()") from None
        return pandas.DataFrame(self.summary(normalize, decimals))

    def verbose(self) -> str:
        """What was found, in words: "2 circles, 1 star, "."""
        counts = sorted(Counter(self.classes.tolist()).items())
        words = (f"{n} {class_name(self.names, int(index))}{'s' * (n > 1)}, " for index, n in counts)
        return "".join(words) or "(no detections), "


def _write(path: Path, content: bytes, append: bool = False) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab" if append else "wb") as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    return str(path)


def _free(path: Path) -> Path:
    """The path, or the first of NAME2, NAME3 ... that is not there."""
    number = 2
    taken = path
    while taken.exists():
        taken, number = path.with_name(f"{path.stem}{number}{path.suffix}"), number + 1
    return taken


def yolo_text(classes: NDArray[Any], boxes: NDArray[Any], size: tuple[int, ...], scores: NDArray[Any] | None = None) -> str:
    """A line for each box [n, 4] x1 y1 x2 y2 px of an image of size (height, width): class, center, sides as shares, score."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    rows = np.hstack([(low + high) / 2, high - low]) / [size[1], size[0], size[1], size[0]]
    rows = rows if scores is None else np.hstack([rows, scores[:, None]])
    lines = (
        " ".join([str(int(index)), *(f"{value:.6f}" for value in row)]) + "\n" for index, row in zip(classes, rows, strict=True)
    )
    return "".join(lines)
