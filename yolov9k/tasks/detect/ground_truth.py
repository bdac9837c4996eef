"""The ground truth of one image in pixels, from a Record or from a COCO file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov9k.common.errors import UserError
from yolov9k.common.text import read_json
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
    def of_annotations(cls, notes: list[dict[str, Any]], class_of: dict[int, int]) -> GroundTruth:
        """From COCO annotations of one image; class_of gives the class index of a category id."""
        boxes = np.array([note["bbox"] for note in notes], np.float64).reshape(-1, 4)
        areas = [note.get("area", note["bbox"][2] * note["bbox"][3]) for note in notes]
        return cls(
            np.array([class_of[note["category_id"]] for note in notes], np.int64),
            np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            np.array([bool(note.get("iscrowd", 0)) for note in notes], bool),
            np.array(areas, np.float64),
        )


def read_coco_ground_truth(path: str | Path) -> tuple[list[str], list[int], dict[int, GroundTruth]]:
    """Class names, their category ids (ascending) and ground truth by image id of a COCO instances JSON. Raises UserError."""
    try:
        content = read_json(path)
        categories = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        ids = sorted(categories)
        class_of = {category: index for index, category in enumerate(ids)}
        notes: dict[int, list[dict[str, Any]]] = {int(image["id"]): [] for image in content["images"]}
        for note in content["annotations"]:
            notes[note["image_id"]].append(note)
        ground_truth = {image_id: GroundTruth.of_annotations(rows, class_of) for image_id, rows in notes.items()}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: not a COCO instances file ({type(error).__name__}: {error})") from None
    return [categories[category] for category in ids], ids, ground_truth
