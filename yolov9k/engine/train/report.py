"""What a run says of itself: its first line, a line an epoch, its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from yolov9k.common.console import literal
from yolov9k.common.figures import drawing
from yolov9k.engine.train.memory import memory_gb
from yolov9k.engine.train.plots import plot_results

if TYPE_CHECKING:
    from rich.text import Text

    from yolov9k.data.records import Split
    from yolov9k.engine.evaluate.validator import ValidationResult
    from yolov9k.engine.train.trainer import Trainer
    from yolov9k.tasks import Task


def announcement(trainer: Trainer) -> Text:
    """Model, data, device and batch of a run that begins."""
    train, val = len(trainer.train_split.records), len(trainer.val_split.records)
    return literal(
        f"{trainer.model.spec.name}: {sum(p.numel() for p in trainer.model.parameters()):,} parameters, "
        f"{trainer.model.num_classes} classes; {train} training and {val} validation images at {trainer.options.img} px; "
        f"{trainer.device}, amp {trainer.amp}, step {trainer.step.mode}, "
        f"batch {trainer.options.batch} x {trainer.schedule.accumulate}; run {trainer.directory}"
    )


def epoch_row(
    trainer: Trainer, epoch: int, losses: Mapping[str, float], speed: float, result: ValidationResult | None, seconds: float
) -> dict[str, float]:
    """An epoch's line of results.csv, by column."""
    task = trainer.task
    row = {loss.column("train"): losses[loss.name] for loss in task.losses}
    row |= {"epoch": epoch, "time": seconds, "lr/pg0": trainer.schedule.at(trainer.step.iteration - 1).lr}
    row |= {"images_per_s": speed, "memory_gb": memory_gb(trainer.device)}
    if result:
        row |= result.metrics.columns()
        row |= {loss.column("val"): result.losses[loss.name] for loss in task.losses if result.losses}
    return row


def epoch_text(trainer: Trainer, row: Mapping[str, float], losses: Mapping[str, float]) -> str:
    """An epoch's line on the screen."""
    task = trainer.task
    figures = "".join(f"  {m.label} {row[m.column]:.3f}" for m in task.metrics if m.label and m.column in row)
    skipped = f"  {trainer.monitor.skipped} steps skipped so far" if trainer.monitor.skipped else ""
    begin = f"epoch {row['epoch'] + 1}/{trainer.options.epochs}  {task.loss_text(losses)}{figures}"
    return f"{begin}  {row['images_per_s']:.1f} images/s  {row['memory_gb']:.1f} GB  {row['time']:.0f} s{skipped}"


def draw_run(directory: Path, task: Task, train: Split) -> None:
    """results.png and labels.png of a run that is over."""
    with drawing():
        plot_results(directory / "results.csv", directory / "results.png", task)
    with drawing():
        task.plot_split(train, directory / "labels.png")
