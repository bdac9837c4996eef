"""TensorBoard reads from a run what results.csv says."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from rich.console import Console

from yolov9k.config.train_options import TrainOptions
from yolov9k.data.synthetic import generate
from yolov9k.engine.train.run_dir import Results
from yolov9k.engine.train.trainer import Trainer
from yolov9k.tasks import DetectTask

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.mark.e2e
def test_every_epochs_numbers_are_logged(tmp_path: Path) -> None:
    data = generate(tmp_path / "data", train=4, val=2, size=64)
    project = str(tmp_path / "runs")
    options = TrainOptions(str(data), "gelan-t", img=64, batch=4, epochs=2, device="cpu", workers=0, project=project)
    trainer = Trainer(options, Console(quiet=True))
    trainer.fit()
    with (trainer.directory / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(list(trainer.directory.glob("events.out.tfevents.*"))) == 1
    log = event_accumulator.EventAccumulator(str(trainer.directory)).Reload()
    for key in ("train/box_loss", "metrics/mAP_0.5", "lr/pg0"):
        logged = [(event.step, event.value) for event in log.Scalars(key)]
        assert [step for step, _ in logged] == [0, 1]
        assert [value for _, value in logged] == pytest.approx([float(row[key]) for row in rows], rel=1e-4)


def test_a_resumed_run_shows_no_epoch_twice(tmp_path: Path) -> None:
    first = Results(tmp_path / "results.csv", DetectTask())
    for epoch in range(3):
        first.add({"epoch": epoch, "time": 1.0, "val/box_loss": math.inf})
    first.close()
    again = Results(tmp_path / "results.csv", DetectTask(), first=2)
    again.add({"epoch": 2, "time": 9.0})
    again.close()
    log = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in log.Scalars("time")] == [(0, 1.0), (1, 1.0), (2, 9.0)]
    assert log.Tags()["scalars"] == ["time"]
