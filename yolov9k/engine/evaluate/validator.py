"""Validation of a model on a loader's images: COCO metrics, the real loss, speed and images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from yolov9k.common.console import PlainConsole
from yolov9k.common.device import autocast, exact_dtype, model_device
from yolov9k.common.errors import check_range, warn
from yolov9k.common.figures import drawing
from yolov9k.common.host_copy import AsyncHostCopy
from yolov9k.common.progress import progress_bar
from yolov9k.common.timing import Clock, Speed
from yolov9k.config.flags import MOST_DETECTIONS
from yolov9k.data.batch import Batch
from yolov9k.data.loader import Loader
from yolov9k.data.records import Record, Split
from yolov9k.engine.events import Callbacks, ValBatchEnd, ValBatchStart, ValEnd, ValStart
from yolov9k.engine.inference import inference_form, to_input
from yolov9k.models import DetectionModel
from yolov9k.tasks import Criterion, DecodeOptions, Evaluation, Evaluator, Predictions, Task, task_of


@dataclass(frozen=True)
class ValidationResult:
    """metrics: the task's evaluation; losses: by the task's names, means over the images, None without a criterion."""

    metrics: Evaluation
    losses: dict[str, float] | None
    speed: Speed
    loss_text: str = ""


def validate(
    model: DetectionModel,
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
    augment: bool = False,
    plots_dir: str | Path | None = None,
    save_json: str | Path | None = None,
    save_txt: str | Path | None = None,
    save_conf: bool = False,
    progress: bool = True,
    callbacks: Callbacks | None = None,
) -> ValidationResult:
    """Evaluate a fused copy of `model`, made once; `model` itself and its modes are not touched.

    Without a criterion its main branch alone runs. With one all do: their maps give the loss, the main one's the
    detections; a lean model beside it would compute most layers twice. What the device found is evaluated on the host
    while the device works on the next batch; nothing else is read from it before the end.

    loader: batches without augmentation. split: gives the class names and the category ids of save_json, by default the
    model's names and 0..classes-1. criterion: the training loss, called with raw maps of all branches. The thresholds'
    defaults are those of the published validation. amp: "off", "fp16", "bf16". single_cls: every detection counts as class
    0, and a model of several classes gets no loss. augment: predictions of three sizes are taken together, without a loss.
    plots_dir receives what the task draws of metrics and of the first batch. save_txt: a folder for labels, with scores if
    save_conf. callbacks: are told of its start, batches and end. Raises UserError when model and data differ in their classes
    or an option is out of its range.
    """
    check_range("conf", conf, 0, 1)
    check_range("iou", iou, 0, 1)
    check_range("max-det", max_det, 1, MOST_DETECTIONS)
    if augment or (single_cls and model.num_classes > 1):
        criterion = None  # the ground truth's one class is none of the model's; views have no loss
    chosen = torch.device(device) if device is not None else model_device(model)
    task, records = task_of(model), loader.dataset.records
    evaluator = task.evaluator(model, split, records, single_cls)
    options = DecodeOptions(conf, iou, max_det, multi_label=True, single_cls=single_cls)
    run = _Run(task, model, criterion, chosen, amp, channels_last, options, augment)
    callbacks = callbacks or Callbacks()
    directory = None if plots_dir is None else Path(plots_dir)
    collector = _Collector(evaluator, records, run.clock, directory)
    callbacks.emit(ValStart(run))
    with progress_bar(progress) as bar:
        batches = _told(run, loader, callbacks)
        run.over(bar.track(batches, total=len(loader), description="validating"), collector)
    run.warn_of_nonfinite()
    metrics = evaluator.compute()
    if save_json is not None:
        evaluator.save_json(Path(save_json))
    if save_txt is not None:
        evaluator.save_text(Path(save_txt), save_conf)
    if directory is not None:
        with drawing():
            metrics.plot(directory)
    losses = run.losses()
    text = "" if losses is None else ", ".join(f"{loss.label} {losses[loss.name]:.4f}" for loss in task.losses)
    result = ValidationResult(metrics, losses, run.clock.speed(run.images), text)
    callbacks.emit(ValEnd(run, result, metrics.columns()))
    return result


def _told(run: _Run, loader: Loader, callbacks: Callbacks) -> Iterator[Batch]:
    """The batches, events before and after each."""
    for number, batch in enumerate(loader):
        callbacks.emit(ValBatchStart(run, number, len(loader)))
        yield batch
        callbacks.emit(ValBatchEnd(run, number, len(loader)))


class _Run:
    """The device's part of a validation, and what adds up there over the batches."""

    def __init__(
        self, task: Task, model: DetectionModel, criterion: Criterion | None, device: torch.device, amp: str,
        channels_last: bool, options: DecodeOptions, augment: bool,
    ) -> None:  # fmt: skip
        autocast(device, amp)  # says at once when there is no such precision
        self.task, self.criterion, self.device, self.options = task, criterion, device, options
        self.amp, self.channels_last, self.augment = amp, channels_last, augment
        self.model = inference_form(model, device, channels_last=channels_last, lean=False)
        self.clock = Clock(device)
        self.images = 0
        self._losses = torch.zeros(len(task.losses), dtype=exact_dtype(device), device=device)
        self._nonfinite = torch.zeros((), dtype=torch.int64, device=device)  # images

    @torch.no_grad()
    def over(self, batches: Iterable[Batch], consume: Callable[[Batch, Tensor, Tensor], None]) -> None:
        """Give `consume` each batch and its predictions, on the host."""
        host_copy = AsyncHostCopy(consume, self.device)
        for batch in batches:
            host_copy.give(batch, *self._step(batch))
        host_copy.finish()

    def _step(self, batch: Batch) -> Predictions:
        """What a batch of the host's holds; sent to the device without waiting where it is page-locked."""
        with self.clock.phase("preprocess"):
            batch = batch.to(self.device)
            x = to_input(batch.images, self.model, self.device, self.channels_last)
        with self.clock.phase("inference"), autocast(self.device, self.amp):
            if self.augment:
                branches = self.task.views(self.model, x)
            else:
                branches = self.model.branches(x, main_only=self.criterion is None)
        with self.clock.phase("postprocess"):
            found = (self.task.decode_views if self.augment else self._decode)(self.model, branches, self.options)
            self._nonfinite += self.task.nonfinite(self.model, branches[-1]).sum()
        self._add_loss(branches, batch)
        self.images += len(batch)
        return found

    def _decode(self, model: DetectionModel, branches: list[list[Tensor]], options: DecodeOptions) -> Predictions:
        return self.task.decode(model, branches[-1], options)

    def _add_loss(self, branches: list[list[Tensor]], batch: Batch) -> None:
        if self.criterion is None:
            return
        with autocast(self.device, self.amp):
            _, parts = self.criterion(branches, self.task.targets(batch))
        self._losses += parts.detach().to(self._losses.dtype) * len(batch)

    def losses(self) -> dict[str, float] | None:
        if self.criterion is None:
            return None
        return self.task.loss_values((self._losses / max(self.images, 1)).tolist())

    def warn_of_nonfinite(self) -> None:
        if count := int(self._nonfinite):
            warn(f"the model gives NaN or infinity in {count} of {self.images} images; such predictions are left out")
        elif self.criterion is not None and not bool(self._losses.isfinite().all()):
            warn(
                "the loss is not finite: the model's outputs are far beyond those of a trained one; its weights may be damaged"
            )


class _Collector:
    """The host's part of a validation: gives the evaluator each batch's predictions, and has the first batch drawn."""

    def __init__(self, evaluator: Evaluator, records: Sequence[Record], clock: Clock, plots_dir: Path | None) -> None:
        self._evaluator, self._records, self._clock = evaluator, records, clock
        self._plots_dir = plots_dir  # until the first batch is drawn

    def __call__(self, batch: Batch, *tensors: Tensor) -> None:
        predictions = Predictions(*tensors)
        if self._plots_dir is not None:
            with drawing():
                self._evaluator.plot_batch(batch, predictions, self._plots_dir)
            self._plots_dir = None
        with self._clock.phase("postprocess"):
            self._evaluator.add(batch, [self._records[index] for index in batch.indices], predictions)


def print_metrics(result: ValidationResult, console: Console | None = None) -> None:
    """The task's table, then losses and speed on lines below."""
    console = console or PlainConsole()
    result.metrics.print(console)
    if result.losses is not None:
        console.print(f"loss: {result.loss_text}", highlight=False)
    console.print(f"speed: {result.speed}", highlight=False)
