"""TensorBoard reads from a run what results.csv says."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from rich.console import Console

from yolov9k.data.synthetic import generate
from yolov9k.engine.options import TrainOptions
from yolov9k.engine.trainer import Trainer


def test_every_epochs_numbers_are_logged(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    data = generate(tmp_path / "data", train=4, val=2, size=64)
    project = str(tmp_path / "runs")
    options = TrainOptions(str(data), "gelan-t", img=64, batch=4, epochs=2, device="cpu", workers=0, project=project)
    trainer = Trainer(options, Console(quiet=True))
    trainer.fit()
    with (trainer.directory / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    log = accumulator.EventAccumulator(str(trainer.directory)).Reload()
    for key in ("train/box_loss", "metrics/mAP_0.5", "lr/pg0"):
        logged = [(event.step, event.value) for event in log.Scalars(key)]
        assert [step for step, _ in logged] == [0, 1]
        assert [value for _, value in logged] == pytest.approx([float(row[key]) for row in rows], rel=1e-4)
