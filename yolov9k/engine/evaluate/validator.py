"""Validation of a model on a loader's images: COCO metrics, the real loss, speed and images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from yolov9k.common.device import autocast, model_device
from yolov9k.common.errors import UserError, check_range, warn
from yolov9k.common.host_copy import AsyncHostCopy
from yolov9k.common.progress import progress_bar
from yolov9k.common.timing import Clock, Speed
from yolov9k.data.letterbox import map_to_image
from yolov9k.data.loader import Batch, Loader
from yolov9k.data.records import Record, Split
from yolov9k.engine.evaluate import plots
from yolov9k.engine.evaluate.coco import CocoEvaluator, Metrics
from yolov9k.engine.inference import detect, exact, inference_form, to_input
from yolov9k.models import YOLOv9
from yolov9k.ops import Detections

Criterion = Callable[[Any, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class ValidationResult:
    """losses: box, class, dfl as a mean over the images; None without a criterion."""

    metrics: Metrics
    losses: tuple[float, float, float] | None
    speed: Speed


@dataclass(frozen=True)
class _Settings:
    conf: float
    iou: float
    max_det: int
    amp: str
    channels_last: bool
    single_cls: bool


def validate(
    model: YOLOv9,
    loader: Loader,
    *,
    split: Split | None = None,
    criterion: Criterion | None = None,
    conf: float = 0.001,
    iou: float = 0.7,
    max_det: int = 300,
    amp: str = "off",
    device: torch.device | str | None = None,
    channels_last: bool = True,
    single_cls: bool = False,
    plots_dir: str | Path | None = None,
    save_json: str | Path | None = None,
    progress: bool = True,
) -> ValidationResult:
    """Evaluate a fused copy of `model`, made once; `model` itself and its modes are not touched.

    Without a criterion its main branch alone runs. With one all do: their maps give the loss, the main one's the
    detections; a lean model beside it would compute most layers twice. What the device found is evaluated on the host
    while the device works on the next batch; nothing else is read from it before the end.

    loader: batches without augmentation. split: gives the class names and the category ids of save_json, by default the
    model's names and 0..classes-1. criterion: the training loss, called with raw maps of all branches. Thresholds:
    facts, validation. amp: "off", "fp16", "bf16". single_cls: every detection counts as class 0, and a model of
    several classes gets no loss. plots_dir receives the curves, the confusion matrix and two mosaics. Raises UserError
    when model and data differ in their classes or an option is out of its range.
    """
    check_range("conf", conf, 0, 1)
    check_range("iou", iou, 0, 1)
    check_range("max-det", max_det, 1)
    if single_cls and model.num_classes > 1:
        criterion = None  # the truth's one class is none of the model's
    chosen = torch.device(device) if device is not None else model_device(model)
    names, category_ids = _classes(model, split, single_cls)
    records = loader.dataset.records
    evaluator = CocoEvaluator(names, category_ids, records)
    settings = _Settings(conf, iou, max_det, amp, channels_last, single_cls)
    run = _Run(model, criterion, chosen, settings)
    collector = _Collector(evaluator, records, run.clock, Path(plots_dir) if plots_dir is not None else None)
    with progress_bar(progress) as bar:
        run.over(bar.track(loader, total=len(loader), description="validating"), collector)
    run.complain()
    metrics = evaluator.compute()
    if save_json is not None:
        evaluator.save_json(save_json)
    if plots_dir is not None:
        plots.plot_curves(metrics, plots_dir)
        plots.plot_confusion(metrics, Path(plots_dir) / "confusion_matrix.png")
    return ValidationResult(metrics, run.losses(), run.clock.speed(run.images))


def _classes(model: YOLOv9, split: Split | None, single_cls: bool) -> tuple[list[str], list[int]]:
    names = split.names if split else model.names
    if single_cls:
        return (["object"] if len(names) != 1 else names), (split.category_ids[:1] if split else [0])
    if len(names) != model.num_classes:
        raise UserError(
            f"{split.source if split else 'model'}: {len(names)} classes in the data, {model.num_classes} in the "
            "model; give the data that the model was trained for, or --single-cls"
        )
    return names, (split.category_ids if split else list(range(len(names))))


class _Run:
    """The device's part of a validation, and what adds up there over the batches."""

    def __init__(self, model: YOLOv9, criterion: Criterion | None, device: torch.device, settings: _Settings) -> None:
        autocast(device, settings.amp)  # says at once when there is no such precision
        self.criterion, self.device, self.settings = criterion, device, settings
        self.model = inference_form(model, device, channels_last=settings.channels_last, lean=False)
        self.clock = Clock(device)
        self.images = 0
        self._losses = torch.zeros(3, dtype=torch.float64, device=device)
        self._broken = torch.zeros((), dtype=torch.int64, device=device)  # images with NaN or infinite outputs

    @torch.no_grad()
    def over(self, batches: Iterable[Batch], consume: Callable[[Batch, Tensor, Tensor], None]) -> None:
        """Give `consume` each batch, its detections [B, max_det, 6] in pixels of the letterboxed images and counts [B]."""
        host_copy = AsyncHostCopy(consume, self.device)
        for batch in batches:
            host_copy.give(batch, *self._step(batch))
        host_copy.finish()

    def _step(self, batch: Batch) -> Detections:
        """What a batch of the host's holds; sent to the device without waiting where it is page-locked."""
        options = self.settings
        with self.clock.phase("preprocess"):
            batch = batch.to(self.device)
            x = to_input(batch.images, self.model, self.device, options.channels_last)
        with self.clock.phase("inference"), autocast(self.device, options.amp):
            branches = self.model.branches(x, main_only=self.criterion is None)
        with self.clock.phase("postprocess"):
            maps = exact(branches[-1])
            found = detect(
                self.model, maps, options.conf, options.iou, max_det=options.max_det,
                agnostic=options.single_cls, multi_label=not options.single_cls,
            )  # fmt: skip
            self._broken += self.model.broken(maps).sum()
        if options.single_cls:
            found.detections[..., 5] = 0
        self._add_loss(branches, batch)
        self.images += len(batch)
        return found

    def _add_loss(self, branches: list[list[Tensor]], batch: Batch) -> None:
        if self.criterion is None:
            return
        with autocast(self.device, self.settings.amp):
            _, parts = self.criterion(branches, (batch.boxes, batch.counts))
        self._losses += parts.detach().double() * len(batch)

    def losses(self) -> tuple[float, float, float] | None:
        if self.criterion is None:
            return None
        box, cls, dfl = (self._losses / max(self.images, 1)).tolist()
        return box, cls, dfl

    def complain(self) -> None:
        broken = int(self._broken)
        if broken:
            warn(f"the model gives NaN or infinity in {broken} of {self.images} images; such boxes are left out")


class _Collector:
    """The host's part of a validation: gives the evaluator each image's detections in its original pixels."""

    def __init__(self, evaluator: CocoEvaluator, records: Sequence[Record], clock: Clock, plots_dir: Path | None) -> None:
        self._evaluator, self._records, self._clock = evaluator, records, clock
        self._plots_dir = plots_dir  # until the first batch is drawn

    def __call__(self, batch: Batch, detections: Tensor, counts: Tensor) -> None:
        if self._plots_dir is not None:
            _mosaics(batch, detections, counts, self._evaluator.names, self._plots_dir)
            self._plots_dir = None
        with self._clock.phase("postprocess"):
            records = [self._records[index] for index in batch.indices]
            sizes = torch.tensor([(record.height, record.width) for record in records], dtype=detections.dtype)
            scale, pad, size = (t.reshape(len(batch), 1, 1, -1).movedim(-1, 0) for t in (batch.scale, batch.pad, sizes))
            boxes = map_to_image(detections[..., :4], scale[0], pad, size)
            rows = torch.cat((boxes, detections[..., 4:]), -1).double().numpy()
            for record, found, count in zip(records, rows, counts.tolist(), strict=True):
                self._evaluator.update(record.image_id, found[:count])


def _mosaics(batch: Batch, detections: Tensor, counts: Tensor, names: Sequence[str], directory: Path) -> None:
    plots.plot_batch(batch.images, batch.boxes, batch.counts, names, directory / "val_batch0_labels.png")
    plots.plot_detections(batch.images, detections, counts, names, directory / "val_batch0_pred.png")


def print_metrics(result: ValidationResult, console: Console | None = None) -> None:
    """A table of all classes with truth, then the other figures on lines below."""
    console, metrics = console or Console(), result.metrics
    table = Table("class", header_style="bold")
    for column in ("images", "instances", "precision", "recall", "AP50", "AP"):
        table.add_column(column, justify="right")
    seen = [row for row in metrics.per_class if row.instances]
    total = sum(row.instances for row in seen)
    figures = metrics.precision, metrics.recall, metrics.ap50, metrics.ap
    images = str(metrics.images)
    table.add_row("all", images, str(total), *map(_figure, figures), style="bold", end_section=True)
    for row in seen if len(seen) > 1 else []:
        figures = row.precision, row.recall, row.ap50, row.ap
        table.add_row(row.name, str(row.images), str(row.instances), *map(_figure, figures))
    console.print(table)
    sizes = f"small {_figure(metrics.ap_small)}, medium {_figure(metrics.ap_medium)}, large {_figure(metrics.ap_large)}"
    console.print(f"AP75 {_figure(metrics.ap75)}, AP {sizes}, AR100 {_figure(metrics.ar100)}", highlight=False)
    if result.losses is not None:
        box, cls, dfl = result.losses
        console.print(f"loss: box {box:.4f}, class {cls:.4f}, dfl {dfl:.4f}", highlight=False)
    console.print(f"speed: {result.speed}", highlight=False)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
