"""Object detection as a task: the published loss, COCO's metrics, boxes as results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolov9k.common.errors import UserError, shown, warn
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.batch import Batch
from yolov9k.data.ids import Id
from yolov9k.data.letterbox import map_to_image
from yolov9k.data.records import Record, Split
from yolov9k.losses import DetectionLoss
from yolov9k.models import DetectionModel
from yolov9k.ops import AssignOptions, Detections, LossOptions, batched_nms
from yolov9k.tasks.base import Criterion, DecodeOptions, Metric, NamedLoss, Predictions, Task
from yolov9k.tasks.detect import plots
from yolov9k.tasks.detect.coco import CocoEvaluator
from yolov9k.tasks.detect.result import Result
from yolov9k.tasks.detect.views import Views, decode_views, maps_of_views


class DetectTask(Task):
    """Boxes, classes, scores. Losses and columns of results.csv are those of the published code."""

    name = "detect"
    losses = (NamedLoss("box", "box"), NamedLoss("cls", "class"), NamedLoss("dfl", "dfl"))
    metrics = (
        Metric("metrics/precision", "precision and recall"),
        Metric("metrics/recall", "precision and recall"),
        Metric("metrics/mAP_0.5", "average precision", "AP50"),
        Metric("metrics/mAP_0.5:0.95", "average precision", "AP"),
    )

    def criterion(self, model: DetectionModel, recipe: TrainRecipe) -> Criterion:
        assign = AssignOptions(
            recipe.tal_topk, recipe.tal_alpha, recipe.tal_beta, small_side=recipe.tal_small_side,
            grown_side=recipe.tal_grown_side, reach=recipe.tal_reach,
        )  # fmt: skip
        return DetectionLoss(
            model.num_classes, model.head.strides, box=recipe.box, cls=recipe.cls, dfl=recipe.dfl, auxiliary=recipe.auxiliary,
            options=LossOptions(model.head.reg_max, assign, recipe.label_smoothing, recipe.cls_pw),
        )  # fmt: skip

    def decode(self, model: DetectionModel, maps: Sequence[Tensor], options: DecodeOptions) -> Predictions:
        return _suppressed(*model.candidates(exact(maps), options.conf), options)

    def views(self, model: DetectionModel, images: Tensor) -> Views:
        return maps_of_views(model, images)

    def decode_views(self, model: DetectionModel, views: Views, options: DecodeOptions) -> Predictions:
        return _suppressed(decode_views(model, [exact(maps) for maps in views]), None, options)

    def nonfinite(self, model: DetectionModel, maps: Sequence[Tensor]) -> Tensor:
        return model.nonfinite(maps)  # NaN and infinity are what they are in every precision

    def evaluator(
        self, model: DetectionModel, split: Split | None, records: Sequence[Record], single_cls: bool
    ) -> CocoEvaluator:
        return CocoEvaluator(*_classes(model, split, single_cls), records)

    def result(self, frame: Any, found: Tensor, gain: float, pad: tuple[int, int], names: Sequence[str]) -> Result:
        height, width = frame.image.shape[:2]
        boxes = map_to_image(found[:, :4], gain, pad, (height, width)).float().numpy()
        scores, classes = found[:, 4].float().numpy(), found[:, 5].long().numpy()
        return Result(frame.path, frame.image, boxes, scores, classes, names, frame.index, frame)

    def plot_batch(self, batch: Batch, names: Sequence[str], path: Path) -> None:
        images = batch.images if batch.images.dtype == torch.uint8 else (batch.images.float() * 255).round().byte()
        plots.plot_batch(images.cpu(), batch.boxes.cpu(), batch.counts.cpu(), names, path)

    def plot_split(self, split: Split, path: Path) -> None:
        plots.plot_labels(split, path)


def exact(maps: Sequence[Tensor]) -> list[Tensor]:
    """Raw maps in at least float32: half precision cannot tell pixels apart beyond 2048 (fp16) or 256 (bf16)."""
    return [level if level.dtype == torch.float64 else level.float() for level in maps]


def detect(
    model: DetectionModel,
    maps: Sequence[Tensor],
    conf: float,
    iou: float,
    *,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    max_det: int = 300,
) -> Detections:
    """From the main branch's `exact` raw maps to what suppression keeps, as in `ops.batched_nms`; a GPU is not waited for."""
    prediction, lengths = model.candidates(maps, conf)
    return batched_nms(prediction, conf, iou, classes, agnostic, multi_label, max_det, lengths=lengths)


def _suppressed(prediction: Tensor, lengths: Tensor | None, options: DecodeOptions) -> Predictions:
    """What suppression keeps of decoded columns; lengths: how many of them an image, None for all."""
    found, counts = batched_nms(
        prediction, options.conf, options.iou, options.classes, options.agnostic or options.single_cls,
        options.multi_label and not options.single_cls, options.max_det, lengths=lengths,
    )  # fmt: skip
    if options.single_cls:
        found[..., 5] = 0
    return Predictions(found, counts)


def _classes(model: DetectionModel, split: Split | None, single_cls: bool) -> tuple[list[str], list[Id]]:
    """Names and category ids of the classes that are evaluated. Raises UserError where model and data have others."""
    names = split.names if split else model.names
    if single_cls:
        return (["object"] if len(names) != 1 else names), (split.category_ids[:1] if split else [0])
    if len(names) != model.num_classes:
        raise UserError(
            f"{split.source if split else 'model'}: {len(names)} classes in the data, {model.num_classes} in the "
            "model; give the data that the model was trained for, or --single-cls"
        )
    if split and names != model.names and model.names != [str(i) for i in range(model.num_classes)]:
        _compare(split, model.names)
    return names, (split.category_ids if split else [*range(len(names))])


def _compare(split: Split, names: Sequence[str]) -> None:
    """Raise UserError for the same classes in another order, whose figures would mean nothing; warn of other names."""
    number, (theirs, ours) = next(
        (i, pair) for i, pair in enumerate(zip(split.names, names, strict=True)) if pair[0] != pair[1]
    )
    what = f"{split.source}: class {number} is {shown(theirs)} in the data and {shown(ours)} in the model"
    if split.in_order_of(names) is not split:
        raise UserError(f"{what}, which has the same classes in another order; evaluate split.in_order_of(model.names)")
    warn(f"{what}; classes are compared by their numbers, give the data that the model was trained for")
