"""COCO average precision and what goes with it: per-class figures, curves over confidence, the confusion matrix."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from torch import Tensor

from yolov9k.common.arrays import Float64Array
from yolov9k.common.errors import UserError
from yolov9k.common.files import write_json, write_text
from yolov9k.common.result_names import output_names
from yolov9k.data.batch import Batch
from yolov9k.data.ids import Id, Key, id_key, key_order, known_key
from yolov9k.data.letterbox import map_to_image
from yolov9k.data.records import Record
from yolov9k.tasks.base import Predictions
from yolov9k.tasks.detect import plots
from yolov9k.tasks.detect.ground_truth import GroundTruth, read_coco_ground_truth
from yolov9k.tasks.detect.matching import CONFIDENCE_GRID, add_confusion, confidence_curves, match_by_score, stack
from yolov9k.tasks.detect.metrics import ClassMetrics, Curves, Metrics
from yolov9k.tasks.detect.plots import CONFUSION_CONFIDENCE, CONFUSION_IOU
from yolov9k.tasks.detect.result import yolo_text

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)


class CocoEvaluator:
    """Collects detections of images whose ground truth it knows, then computes Metrics.

    names [classes]; category_ids [classes]: id of each class in COCO results; records: the ground truth, one for each image.
    Raises ValueError when the two lists differ in length or an image id comes twice.
    """

    def __init__(self, names: Sequence[str], category_ids: Sequence[Id], records: Iterable[Record]) -> None:
        if len(names) != len(category_ids):
            raise ValueError(f"{len(names)} class names but {len(category_ids)} category ids")
        self.names, self.category_ids = list(names), list(category_ids)
        self._ground_truth: dict[Key, GroundTruth] = {}
        self._detections: dict[Key, list[Float64Array]] = {}
        self._result_ids: dict[Key, Id] = {}
        self._records = list(records)
        for record in self._records:
            if record.image_id in self._ground_truth:
                raise ValueError(f"image id {record.image_id} comes twice")
            self._ground_truth[record.image_id] = GroundTruth.of_record(record)
            if record.result_id is not None:
                self._result_ids[record.image_id] = record.result_id

    @classmethod
    def from_json(cls, path: str | Path) -> CocoEvaluator:
        """Ground truth straight from a COCO instances JSON; classes are its categories in the order of their ids."""
        file = read_coco_ground_truth(path)
        evaluator = cls(file.names, file.category_ids, [])
        evaluator._ground_truth.update(file.ground_truth)
        evaluator._result_ids.update(file.image_ids)
        return evaluator

    def update(self, image_id: Id, detections: Tensor | Float64Array) -> None:
        """Add detections [n, 6] of one image: x1 y1 x2 y2 in pixels of the original image, score, class index.

        image_id: a record's, or one of the COCO file's, also as "1" or 1.0 for 1. Raises ValueError on an unknown image id,
        another shape or a class outside the names.
        """
        rows = detections.detach().cpu().double().numpy() if isinstance(detections, Tensor) else detections
        rows = np.asarray(rows, np.float64)
        if rows.ndim != 2 or rows.shape[1] != 6:
            raise ValueError(f"detections must be [n, 6], got {list(rows.shape)}")
        key = id_key(image_id)
        if key is None or key not in self._ground_truth:
            raise ValueError(f"image id {image_id} is not among the {len(self._ground_truth)} images of the ground truth")
        if len(rows) and (rows[:, 5].min() < 0 or rows[:, 5].max() >= len(self.names)):
            raise ValueError(f"detected classes must be below {len(self.names)}, got {rows[:, 5].max():.0f}")
        self._detections.setdefault(key, []).append(rows)

    def add(self, batch: Batch, records: Sequence[Record], predictions: Predictions) -> None:
        """Add a batch's detections [B, max_det, 6] in pixels of its letterboxed images, all on the host."""
        found, counts = predictions
        sizes = torch.tensor([(record.height, record.width) for record in records], dtype=found.dtype)
        scale, pad, size = (t.reshape(len(batch), 1, 1, -1).movedim(-1, 0) for t in (batch.scale, batch.pad, sizes))
        boxes = map_to_image(found[..., :4], scale[0], pad, size)
        rows = torch.cat((boxes, found[..., 4:]), -1).double().numpy()
        for record, mine, count in zip(records, rows, counts.tolist(), strict=True):
            self.update(record.image_id, mine[:count])

    def plot_batch(self, batch: Batch, predictions: Predictions, directory: Path) -> None:
        """val_batch0_labels.png and val_batch0_pred.png: a batch's ground truth and its detections, on the host."""
        plots.plot_batch(batch.images, batch.boxes, batch.counts, self.names, directory / "val_batch0_labels.png")
        plots.plot_detections(batch.images, *predictions, self.names, directory / "val_batch0_pred.png")

    def add_results(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Add COCO results: dicts with image_id, category_id, bbox [x, y, w, h] and score, as `save_json` writes them.

        Raises UserError.
        """
        class_of = {known_key(category): index for index, category in enumerate(self.category_ids)}
        image_of = {known_key(called): key for key, called in self._result_ids.items()}
        for number, result in enumerate(results):
            self._add_result(number, result, class_of, image_of)

    def _add_result(
        self, number: int, result: Mapping[str, Any], class_of: Mapping[Key, int], image_of: Mapping[Key, Key]
    ) -> None:
        try:
            x, y, w, h = result["bbox"]
            row = [x, y, x + w, y + h, result["score"], class_of[known_key(result["category_id"])]]
            called = known_key(result["image_id"])
            self.update(image_of.get(called, called), np.array([row], np.float64))
        except (KeyError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise UserError(f"COCO result {number} does not fit the ground truth ({what})") from None

    def save_json(self, path: str | Path) -> None:
        """Write COCO results: bbox with 3 decimals, score with 5; images are called by their `result_id`.

        The file appears complete or not at all.
        """
        called = {key: self._result_ids.get(key, key) for key in self._detections}
        results = [
            {
                "image_id": row["image_id"],
                "category_id": self.category_ids[row["category_id"]],
                "bbox": [round(value, 3) for value in row["bbox"]],
                "score": round(row["score"], 5),
            }
            for row in self._result_rows(called)
        ]
        write_json(path, results)

    def save_text(self, folder: Path, conf: bool = False) -> None:
        """Write folder/STEM.txt of each image: YOLO labels of its detections, with scores if `conf`. Raises UserError."""
        for record, name in zip(self._records, output_names([record.path for record in self._records]), strict=True):
            rows = self._rows(record.image_id)
            text = yolo_text(rows[:, 5], rows[:, :4], (record.height, record.width), rows[:, 4] if conf else None)
            write_text(folder / f"{name}.txt", text)

    def _rows(self, image_id: Key) -> Float64Array:
        return stack(self._detections.get(image_id, []))

    def compute(self) -> Metrics:
        """Metrics of what was added so far; images without detections count as missed."""
        instances, images = self._counts()
        with _collector_paused():
            precision, recall = self._coco_arrays(bool(instances.any()))
        ap = _class_means(precision[:, :, :, _ALL].transpose(2, 0, 1))
        ap50 = _class_means(precision[0, :, :, _ALL].T)
        curves = self._curves(precision[0, :, :, _ALL].T, instances)
        chosen = (curve[:, curves.best] for curve in (curves.precision, curves.recall))
        at_best = [np.where(instances > 0, values, np.nan) for values in chosen]
        columns = zip(self.names, images, instances, *at_best, ap50, ap, strict=True)
        return Metrics(
            ap=_mean(precision[..., _ALL], 0.0),
            ap50=_mean(precision[0, ..., _ALL], 0.0),
            ap75=_mean(precision[5, ..., _ALL], 0.0),
            ap_small=_mean(precision[..., _SMALL]),
            ap_medium=_mean(precision[..., _MEDIUM]),
            ap_large=_mean(precision[..., _LARGE]),
            ar100=_mean(recall[..., _ALL], 0.0),
            precision=_mean(at_best[0], 0.0),
            recall=_mean(at_best[1], 0.0),
            images=len(self._ground_truth),
            per_class=[ClassMetrics(n, int(i), int(k), *map(float, rest)) for n, i, k, *rest in columns],
            curves=curves,
            confusion=self._confusion(),
        )

    def _counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Instances and images [classes] that hold each class, crowds not counted."""
        real = [ground_truth.classes[~ground_truth.crowd] for ground_truth in self._ground_truth.values()]
        size = len(self.names)
        instances = sum((np.bincount(c, minlength=size) for c in real), np.zeros(size, np.int64))
        images = sum((np.bincount(np.unique(c), minlength=size) for c in real), np.zeros(size, np.int64))
        return instances, images

    def _coco_arrays(self, any_ground_truth: bool) -> tuple[Float64Array, Float64Array]:
        """faster-coco-eval's precision [T, R, K, A] and recall [T, K, A] at 100 detections, -1 turned into NaN."""
        if not any_ground_truth:
            return np.full((10, 101, len(self.names), 4), np.nan), np.full((10, len(self.names), 4), np.nan)
        # Class indices serve as category ids here, so that K runs in the order of the names.
        numbers = {key: number for number, key in enumerate(sorted(self._ground_truth, key=key_order), 1)}  # ids may be texts
        frame = {
            "images": [{"id": number} for number in numbers.values()],
            "categories": [{"id": index, "name": name} for index, name in enumerate(self.names)],
        }
        ground_truth, found = (
            COCO({**frame, "annotations": rows}) for rows in (self._ground_truth_rows(numbers), self._result_rows(numbers))
        )
        evaluation = COCOeval_faster(ground_truth, found, "bbox", print_function=_silent)
        evaluation.evaluate()
        evaluation.accumulate()
        precision, recall = (np.array(evaluation.eval[key], np.float64)[..., -1] for key in ("precision", "recall"))
        precision[precision < 0] = np.nan
        recall[recall < 0] = np.nan
        return precision, recall

    def _ground_truth_rows(self, numbers: Mapping[Key, int]) -> list[dict[str, Any]]:
        rows = (
            {"image_id": numbers[image_id], "category_id": index, "bbox": box, "area": area, "iscrowd": int(crowd)}
            for image_id, t in self._ground_truth.items()
            for index, box, area, crowd in zip(*_lists(t.classes, _xywh(t.boxes), t.areas, t.crowd), strict=True)
        )
        return _numbered(rows)

    def _result_rows(self, called: Mapping[Key, Id]) -> list[dict[str, Any]]:
        """All detections as COCO results, images as they are `called`, classes by their index."""
        found = ((image_id, self._rows(image_id)) for image_id in self._detections)
        return _numbered(
            {"image_id": called[image_id], "category_id": int(c), "bbox": xywh, "area": xywh[2] * xywh[3], "score": score}
            for image_id, rows in found
            for c, xywh, score in zip(*_lists(rows[:, 5], _xywh(rows), rows[:, 4]), strict=True)
        )

    def _curves(self, pr: Float64Array, instances: NDArray[np.int64]) -> Curves:
        rows = {image_id: self._rows(image_id) for image_id in self._detections}
        outcomes = [match_by_score(r, self._ground_truth[image_id], 0.5) for image_id, r in rows.items()]
        flat = np.concatenate([np.zeros((0, 6)), *rows.values()])
        outcome = np.concatenate([np.zeros(0, np.int8), *outcomes])
        precision, recall = confidence_curves(flat[:, 4], flat[:, 5].astype(np.int64), outcome, instances)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best = int(f1[instances > 0].mean(0).argmax()) if instances.any() else 0
        return Curves(np.linspace(0, 1, 101), pr, CONFIDENCE_GRID, precision, recall, f1, best)

    def _confusion(self) -> NDArray[np.int64]:
        matrix = np.zeros((len(self.names) + 1,) * 2, np.int64)
        for image_id, ground_truth in self._ground_truth.items():
            add_confusion(matrix, self._rows(image_id), ground_truth, CONFUSION_CONFIDENCE, CONFUSION_IOU)
        return matrix


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Half a million dicts, none in a cycle: the garbage collector would walk them again and again, a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _silent(*_: object) -> None:
    """faster-coco-eval's progress lines would tear the progress bar."""


def _xywh(rows: Float64Array) -> Float64Array:
    """x1 y1 x2 y2 of [n, 4 or more] -> x y width height [n, 4]."""
    return np.concatenate([rows[:, :2], rows[:, 2:4] - rows[:, :2]], 1)


def _lists(*arrays: NDArray[Any]) -> tuple[list[Any], ...]:
    return tuple(array.tolist() for array in arrays)


def _numbered(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Annotations with ids from 1 on: COCO evaluation reads the id 0 as "not matched"."""
    return [{"id": number, "iscrowd": 0, **row} for number, row in enumerate(rows, 1)]


def _mean(values: Float64Array, empty: float = math.nan) -> float:
    """Mean of what is not NaN; `empty` where nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else empty


def _class_means(values: Float64Array) -> Float64Array:
    """[classes, ...] -> [classes], NaN for a class without ground truth."""
    return np.array([_mean(row) for row in values])
