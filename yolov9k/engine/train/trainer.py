"""Training from start to end: data, model, epochs, validation, checkpoints, images (facts: training recipe)."""

from __future__ import annotations

import time
from dataclasses import asdict, fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from yolov9k.common.device import choose_amp, is_cuda, pick_device
from yolov9k.common.errors import UserError, warn
from yolov9k.config.recipe import TrainRecipe, load_recipe
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.config import load_split
from yolov9k.data.loader import Batch, Loader, make_loader
from yolov9k.engine.evaluate import plots
from yolov9k.engine.evaluate.validator import ValidationResult, print_metrics, validate
from yolov9k.engine.train.loss_monitor import LossMonitor
from yolov9k.engine.train.memory import explain_out_of_memory, is_out_of_memory, memory_gb, pick_batch
from yolov9k.engine.train.prefetch import feed
from yolov9k.engine.train.run_dir import Results, latest_checkpoint, make_run_directory, save_settings
from yolov9k.engine.train.schedule import Schedule
from yolov9k.engine.train.step import TrainStep
from yolov9k.losses import DetectionLoss
from yolov9k.models import YOLOv9, create_model
from yolov9k.models.checkpoints import load, load_weights, read, rebuild, save


class Trainer:
    """One training run. `fit` trains; `directory` holds what it leaves: weights, results.csv, images."""

    def __init__(self, options: TrainOptions, console: Console | None = None, resume: dict[str, Any] | None = None) -> None:
        options.check()
        self.options, self.console = options, console or Console()
        self.device = pick_device(options.device)
        self.recipe = TrainRecipe(**resume["hyp"]) if resume else load_recipe(options.hyp)
        if options.label_smoothing is not None:
            self.recipe = self.recipe.override("--label-smoothing", label_smoothing=options.label_smoothing)
        self.amp = choose_amp(options.amp, self.device)
        torch.manual_seed(options.seed)
        self.train_split = load_split(options.data, "train", single_cls=options.single_cls, strict=options.strict)
        self.val_split = load_split(options.data, "val", single_cls=options.single_cls, strict=options.strict)
        self._check_names()
        self._leave_out_poor()
        if not any(len(record.classes) for record in self.train_split.records):
            raise UserError(f"{options.data}: no training image has an object; 'yolov9k data check {options.data}' lists why")
        self._report_faults()
        self.model = self._model(resume).to(self.device).checkpoint_stages(options.checkpoint)
        self.criterion = make_criterion(self.model, self.recipe)
        if options.batch == 0:
            self._pick_batch()
        self.train_loader, self.val_loader = self._loaders()
        self.schedule = Schedule(self.recipe, options.batch, len(self.train_loader), options.epochs, options.lr_curve)
        self.step = TrainStep(
            self.model, self.criterion, self.recipe, options.mode, batch=options.batch, schedule=self.schedule, amp=self.amp,
            log=self.console.print,
        )  # fmt: skip
        self.first_epoch, self.best, self.best_epoch = 0, -1.0, 0
        if resume:
            self._restore(resume)
        self.next_epoch = self.first_epoch  # of a run that is resumed from here
        self.directory = Path(resume["directory"]) if resume else make_run_directory(
            options.project, options.name, options.exist_ok
        )  # fmt: skip
        (self.directory / "weights").mkdir(parents=True, exist_ok=True)
        save_settings(self.directory, opt=options.plain(), hyp=asdict(self.recipe))
        self.results = Results(self.directory / "results.csv", self.first_epoch)
        last_good = self.directory / "weights" / "last.pt"
        self.watch = LossMonitor(self.step, self.train_split.records, options.bad_steps, last_good)

    @classmethod
    def resume(
        cls, path: str | Path | None, project: str = "runs/train", console: Console | None = None, **changes: Any
    ) -> Trainer:
        """Go on with a run from its last.pt (None: the youngest below `project`). Raises UserError."""
        checkpoint = Path(path) if path else latest_checkpoint(project)
        content = read(checkpoint)
        if "step" not in content:
            raise UserError(f"{checkpoint}: holds no optimizer state to resume from; give the run's weights/last.pt")
        known = {field.name for field in fields(TrainOptions)}
        values = {key: value for key, value in content["options"].items() if key in known}
        options = TrainOptions(**{**values, **changes, "freeze": tuple(values["freeze"])})
        if content["epoch"] >= options.epochs:
            raise UserError(
                f"{checkpoint}: its {options.epochs} epochs are done, nothing to resume; train on with --weights {checkpoint}"
            )
        content["directory"] = str(checkpoint.resolve().parents[1])
        return cls(options, console, content)

    def fit(self) -> ValidationResult:
        """Train all epochs; returns the validation of the best weights. Ctrl-C saves last.pt and is raised again."""
        options = self.options
        self._announce()
        try:
            for epoch in range(self.first_epoch, options.epochs):
                started = time.perf_counter()
                losses, speed = self._train_epoch(epoch)
                result = None if options.noval and epoch + 1 < options.epochs else self._validate()
                self._record(epoch, losses, speed, result, time.perf_counter() - started)
                if options.patience and epoch - self.best_epoch >= options.patience:
                    self.console.print(f"no better fitness for {options.patience} epochs: stopping early")
                    break
        except KeyboardInterrupt:
            self._save("last.pt")
            self.console.print(f"interrupted: {self.directory}/weights/last.pt is saved; go on with --resume")
            self.val_loader.close()
            raise
        finally:
            self.train_loader.close()
            self.results.close()
        return self._finish()

    def _pick_batch(self) -> None:
        pick = pick_batch(
            self.model, self.criterion, self.recipe, self.options.img, self.device, amp=self.amp,
            images=len(self.train_split.records), mode=self.options.mode,
        )  # fmt: skip
        self.options.batch = pick.batch
        self.console.print(pick.reason)

    def _loaders(self) -> tuple[Loader, Loader]:
        options = self.options
        common: dict[str, Any] = {"img_size": options.img, "workers": options.workers, "cache": options.cache}
        batch = min(options.batch, len(self.train_split.records))
        train = make_loader(
            self.train_split, self.recipe, batch=batch, augment=True, rect=options.rect, seed=options.seed,
            close_mosaic=options.close_mosaic, epochs=options.epochs, multi_scale=options.multi_scale,
            augment_on=self.device if is_cuda(self.device) else "worker", decode=options.decode, **common,
        )  # fmt: skip
        return train, make_loader(self.val_split, self.recipe, batch=2 * options.batch, augment=False, rect=True, **common)

    def _model(self, resume: dict[str, Any] | None) -> YOLOv9:
        options, classes = self.options, len(self.train_split.names)
        if resume:
            model = rebuild(resume, "--resume")
            model.load_state_dict(resume["model"])
        elif options.cfg is None:
            given = read(str(options.weights))
            if "spec" not in given:
                raise UserError(f"{options.weights}: has no layer table; say which model it is with --cfg")
            changed = {"num_classes": classes, "names": self.train_split.names, "fused": False}
            model = rebuild({**given, **changed}, str(options.weights))
        else:
            model = create_model(options.cfg, classes)
        if options.weights and not resume:
            fresh = load_weights(model, options.weights)
            self.console.print(f"{options.weights}: {len(model.state_dict()) - len(fresh)} tensors taken, {len(fresh)} fresh")
        model.names = list(self.train_split.names)
        _freeze(model, options.freeze)
        return model

    def _restore(self, resume: dict[str, Any]) -> None:
        try:
            self.step.load_state_dict(resume["step"])
        except ValueError as error:
            raise UserError(f"--resume: {error}; train on from its weights with --weights") from None
        self.step.ema.load_state_dict(resume["ema"])
        self.first_epoch, self.best, self.best_epoch = resume["epoch"], resume["best"], resume["best_epoch"]
        self.step.iteration = self.first_epoch * len(self.train_loader)

    def _train_epoch(self, epoch: int) -> tuple[list[float], float]:
        """One epoch; returns the mean loss parts and images a second."""
        self.model.train()
        self.train_loader.set_epoch(epoch)
        self.watch.start()
        images, started = 0, time.perf_counter()
        with self._progress() as bar:
            task = bar.add_task(f"epoch {epoch + 1}/{self.options.epochs}", total=len(self.train_loader), note="")
            for number, batch in enumerate(feed(self.train_loader, self.device, self.step.dtype)):
                if epoch == self.first_epoch and number < 3 and not self.options.noplots:
                    self._plot_batch(number, batch)
                self.watch.add(self._do(batch), batch)
                images += len(batch)
                rate = images / (time.perf_counter() - started)
                bar.update(task, advance=1, note=_note(self.watch.means, rate, memory_gb(self.device)))
            self.watch.finish()
        return self.watch.means, images / (time.perf_counter() - started)

    def _do(self, batch: Batch) -> Tensor:
        """One step. Raises UserError where memory gives out, with what had been allocated and what to change."""
        try:
            return self.step(batch.images, batch.boxes, batch.counts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = max(batch.images.shape[-2:])
            raise explain_out_of_memory(
                error, self.model, self.criterion, len(batch), size, amp=self.amp, recipe=self.recipe
            ) from None  # fmt: skip

    def _validate(self) -> ValidationResult:
        return validate(
            self.step.ema, self.val_loader, split=self.val_split, criterion=self.criterion, amp=self.amp,
            device=self.device, channels_last=True, progress=self.console.is_terminal,
        )  # fmt: skip

    def _record(self, epoch: int, losses: list[float], speed: float, result: ValidationResult | None, seconds: float) -> None:
        """Write the epoch's line and checkpoints."""
        row = dict(zip(("train/box_loss", "train/cls_loss", "train/dfl_loss"), losses, strict=True))
        row |= {"epoch": epoch, "time": seconds, "lr/pg0": self.schedule.at(self.step.iteration - 1).lr}
        row |= {"images_per_s": speed, "memory_gb": memory_gb(self.device)}
        text = f"epoch {epoch + 1}/{self.options.epochs}  box {losses[0]:.3f}  class {losses[1]:.3f}  dfl {losses[2]:.3f}"
        if result:
            metrics = result.metrics
            row |= {"metrics/precision": metrics.precision, "metrics/recall": metrics.recall}
            row |= {"metrics/mAP_0.5": metrics.ap50, "metrics/mAP_0.5:0.95": metrics.ap}
            names = ("val/box_loss", "val/cls_loss", "val/dfl_loss")
            row |= dict(zip(names, result.losses or (), strict=True))
            text += f"  AP50 {metrics.ap50:.3f}  AP {metrics.ap:.3f}"
            if metrics.fitness > self.best:
                self.best, self.best_epoch = metrics.fitness, epoch
                save(self.directory / "weights" / "best.pt", self.step.ema, epoch=epoch, best=self.best)
        self.results.add(row)
        self.next_epoch = epoch + 1
        if not self.watch.in_a_row:  # last.pt stays the last good state
            self._save("last.pt")
        if epoch and self.options.save_period > 0 and epoch % self.options.save_period == 0:
            save(self.directory / "weights" / f"epoch{epoch}.pt", self.step.ema, epoch=epoch)
        skipped = f"  {self.watch.skipped} steps skipped so far" if self.watch.skipped else ""
        self.console.print(f"{text}  {speed:.1f} images/s  {row['memory_gb']:.1f} GB  {seconds:.0f} s{skipped}")

    def _save(self, name: str) -> None:
        """Save all that a resumed run needs."""
        save(
            self.directory / "weights" / name, self.model, ema=self.step.ema.state_dict(), step=self.step.state_dict(),
            epoch=self.next_epoch, best=self.best, best_epoch=self.best_epoch, hyp=asdict(self.recipe),
            options=self.options.plain(),
        )  # fmt: skip

    def _finish(self) -> ValidationResult:
        """Validate the best weights once more, with images."""
        weights = self.directory / "weights"
        best = load(weights / ("best.pt" if (weights / "best.pt").exists() else "last.pt")).to(self.device)
        result = validate(
            best, self.val_loader, split=self.val_split, criterion=self.criterion, amp=self.amp, device=self.device,
            plots_dir=None if self.options.noplots else self.directory, progress=self.console.is_terminal,
        )  # fmt: skip
        self.val_loader.close()
        if not self.options.noplots:
            plots.plot_results(self.directory / "results.csv", self.directory / "results.png")
            plots.plot_labels(self.train_split, self.directory / "labels.png")
        print_metrics(result, self.console)
        self.console.print(f"run: {self.directory}  weights: {weights / 'best.pt'}")
        return result

    def _check_names(self) -> None:
        """Parts in files of their own (COCO, VOC) may number their classes apart: the figures would mean nothing."""
        train, val = self.train_split.names, self.val_split.names
        if train != val and not self.options.single_cls:
            pairs = enumerate(zip_longest(train, val, fillvalue="none"))
            number, (first, second) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
            raise UserError(
                f"{self.options.data}: train ({len(train)} classes) and val ({len(val)}) differ, class {number} is {first} "
                f"in train and {second} in val; give both the same classes in the same order, or names: in a data.yaml"
            )

    def _leave_out_poor(self) -> None:
        """Keep the training images with as many objects as --min-items asks for."""
        split, least = self.train_split, self.options.min_items
        rich = [record for record in split.records if (~record.crowd).sum() >= least]
        if len(rich) < len(split.records):
            if not rich:
                raise UserError(f"--min-items {least}: none of {len(split.records)} training images has as many objects")
            self.console.print(f"--min-items {least}: {len(split.records) - len(rich)} training images are left out")
            self.train_split = replace(split, records=rich)

    def _report_faults(self) -> None:
        for split in (self.train_split, self.val_split):
            fatal = [fault for fault in split.faults if fault.fatal]
            if fatal:
                warn(f"{split.name}: {len(fatal)} faulty labels or images are left out, the first: {fatal[0]}; "
                     f"list them with 'yolov9k data check {self.options.data}'")  # fmt: skip

    def _announce(self) -> None:
        train, val = len(self.train_split.records), len(self.val_split.records)
        self.console.print(
            f"{self.model.spec.name}: {sum(p.numel() for p in self.model.parameters()):,} parameters, "
            f"{self.model.num_classes} classes; {train} training and {val} validation images at {self.options.img} px; "
            f"{self.device}, amp {self.amp}, step {self.step.mode}, batch {self.options.batch} x {self.schedule.accumulate}; "
            f"run {self.directory}"
        )

    def _plot_batch(self, number: int, batch: Batch) -> None:
        path = self.directory / f"train_batch{number}.png"
        images = batch.images if batch.images.dtype == torch.uint8 else (batch.images.float() * 255).round().byte()
        plots.plot_batch(images.cpu(), batch.boxes.cpu(), batch.counts.cpu(), self.train_split.names, path)

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        note = TextColumn("{task.fields[note]}")
        return Progress(*columns, note, console=self.console, transient=True, disable=not self.console.is_terminal)


def make_criterion(model: YOLOv9, recipe: TrainRecipe) -> DetectionLoss:
    """The loss of a model under a run's hyper-parameters."""
    return DetectionLoss(
        model.num_classes, model.head.strides, model.head.reg_max, box=recipe.box, cls=recipe.cls, dfl=recipe.dfl,
        auxiliary=recipe.auxiliary, topk=recipe.tal_topk, alpha=recipe.tal_alpha, beta=recipe.tal_beta,
        label_smoothing=recipe.label_smoothing, pos_weight=recipe.cls_pw,
    )  # fmt: skip


def _freeze(model: YOLOv9, layers: tuple[int, ...]) -> None:
    """Freeze layers: one number N means the first N, several mean just those (as the published flag)."""
    given = ",".join(map(str, layers))
    chosen = range(layers[0]) if len(layers) == 1 and layers[0] >= 0 else layers
    for number in chosen:
        if not 0 <= number < len(model.model):
            raise UserError(f"--freeze {given}: the model has layers 0 to {len(model.model) - 1}")
        model.model[number].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"--freeze {given}: nothing is left to train")


def _note(parts: list[float], rate: float, memory: float) -> str:
    box, cls, dfl = parts
    return f"box {box:.3f} class {cls:.3f} dfl {dfl:.3f}  {rate:.1f} images/s  {memory:.1f} GB"
