"""The ground truth of one image in pixels, from a Record or from a COCO file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov9k.common.errors import UserError
from yolov9k.common.text import read_json
from yolov9k.data.formats.base import is_number, is_set
from yolov9k.data.formats.coco import read_categories
from yolov9k.data.ids import Id, Key, known_key
from yolov9k.data.records import Record


@dataclass(frozen=True)
class GroundTruth:
    """classes int64 [n]; boxes float64 [n, 4] x1 y1 x2 y2 in pixels; crowd bool [n]; areas float64 [n] px."""

    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]

    @classmethod
    def of_record(cls, record: Record) -> GroundTruth:
        """A record's ground truth in the pixels of its original image."""
        size = np.array([record.width, record.height] * 2, np.float64)
        boxes = record.boxes.astype(np.float64).reshape(-1, 4) * size
        return cls(record.classes.astype(np.int64), boxes, record.crowd.astype(bool), record.areas.astype(np.float64))

    @classmethod
    def of_annotations(cls, notes: list[dict[str, Any]], class_of: dict[Key, int]) -> GroundTruth:
        """From COCO annotations of one image; class_of gives the class index of a category id's key."""
        boxes = np.array([note["bbox"] for note in notes], np.float64).reshape(-1, 4)
        areas = [note["area"] if is_number(note.get("area")) else note["bbox"][2] * note["bbox"][3] for note in notes]
        return cls(
            np.array([class_of[known_key(note["category_id"])] for note in notes], np.int64),
            np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            np.array([is_set(note.get("iscrowd")) for note in notes], bool),
            np.array(areas, np.float64),
        )


@dataclass(frozen=True)
class CocoFile:
    """What a COCO instances JSON holds: classes in the order of their categories' ids, images by the key of their id.

    category_ids, image_ids: as the file has them, for results.
    """

    names: list[str]
    category_ids: list[Id]
    image_ids: dict[Key, Id]
    ground_truth: dict[Key, GroundTruth]


def read_coco_ground_truth(path: str | Path) -> CocoFile:
    """The ground truth of a COCO instances JSON. Raises UserError."""
    try:
        content = read_json(path)
        categories = read_categories(content["categories"], Path(path))
        class_of = {key: index for index, key in enumerate(categories)}
        image_ids: dict[Key, Id] = {known_key(image["id"]): image["id"] for image in content["images"]}
        notes: dict[Key, list[dict[str, Any]]] = {key: [] for key in image_ids}
        for note in content["annotations"]:
            notes[known_key(note["image_id"])].append(note)
        ground_truth = {key: GroundTruth.of_annotations(rows, class_of) for key, rows in notes.items()}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: not a COCO instances file ({type(error).__name__}: {error})") from None
    category_ids, names = [stated for stated, _ in categories.values()], [name for _, name in categories.values()]
    return CocoFile(names, category_ids, image_ids, ground_truth)
