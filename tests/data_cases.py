"""What tests of the data are made of: images on disk, records, splits, requests for samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from yolov9k.config import TrainOptions
from yolov9k.data.batch import Batch
from yolov9k.data.dataset import SampleRequest
from yolov9k.data.records import DataIssue, Record, Split

BOX = "0 0.5 0.5 0.2 0.4"  # a row of a label file
SIZE = 64  # side of the samples that `request` asks for


def write_image(path: Path, width: int = 40, height: int = 20, **options: Any) -> Path:
    """Noise, its folder made where it is not there; options as Pillow's `save` takes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_yolo(root: Path, labels: dict[str, str | None], names: str = "[cell, dust]") -> Path:
    """A YOLO dataset of one split with an image for each label text; None leaves the label file out."""
    for stem, text in labels.items():
        write_image(root / "images" / f"{stem}.jpg")
        if text is not None:
            (root / "labels").mkdir(exist_ok=True)
            (root / "labels" / f"{stem}.txt").write_text(text)
    (root / "data.yaml").write_text(f"train: images\nval: images\nnames: {names}\n")
    return root / "data.yaml"


def train_options(data: Path, tmp_path: Path, **changes: Any) -> TrainOptions:
    """Options of a run of one epoch of the smallest model at 32 pixels, without processes and plots."""
    return TrainOptions(
        data=str(data), cfg="yolov9-t", img=32, batch=2, epochs=1, workers=0, device="cpu", project=str(tmp_path / "runs"),
        noplots=True, **changes,
    )  # fmt: skip


def only_issue(split: Split) -> DataIssue:
    """The single thing that is wrong with a split."""
    assert len(split.issues) == 1, [str(issue) for issue in split.issues]
    return split.issues[0]


def make_records(folder: Path | None, shapes: Sequence[tuple[int, int]]) -> list[Record]:
    """Images with one white object on black, in the middle half; every third has its outline, every fourth none."""
    records = []
    for number, (height, width) in enumerate(shapes):
        path = (folder or Path()) / f"{number}.{'jpg' if number % 2 else 'png'}"
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            image = np.zeros((height, width, 3), np.uint8)
            image[height // 4 : height - height // 4, width // 4 : width - width // 4] = 255
            cv2.imwrite(str(path), image)
        x, y = (width // 4) / width, (height // 4) / height
        boxes = np.array([[x, y, 1 - x, 1 - y]], np.float32)[: number % 4 != 3]
        outline = boxes[0][[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2) if number % 3 == 0 and len(boxes) else None
        n = len(boxes)
        classes, crowd, areas = np.full(n, number % 5), np.zeros(n, bool), np.ones(n, np.float32)
        records.append(Record(path, 100 + number, height, width, classes, boxes, [outline] * n, crowd, areas))
    return records


def make_split(folder: Path, shapes: Sequence[tuple[int, int]]) -> Split:
    """A split of `make_records`."""
    return Split("train", list("abcde"), [1, 2, 3, 4, 5], make_records(folder, shapes), [], folder)


def request(index: int, *, epoch: int = 0, mosaic: bool = False, shape: tuple[int, int] = (SIZE, SIZE)) -> SampleRequest:
    """A request for one sample of a record."""
    return SampleRequest(index, epoch, mosaic, shape, shape)


def equal(first: Batch, second: Batch) -> bool:
    """Whether two batches hold the same."""
    tensors = ("images", "boxes", "counts", "scale", "pad")
    return first.indices == second.indices and all(torch.equal(getattr(first, t), getattr(second, t)) for t in tensors)
