"""--time plans as many epochs as fit, --fraction draws a share of the images: a shorter run is whole in itself."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.engine_cases import TINY
from yolov9k.common.errors import UserError
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.synthetic import generate
from yolov9k.engine.train import time_limit
from yolov9k.engine.train.schedule import Schedule
from yolov9k.engine.train.time_limit import TimeLimit
from yolov9k.engine.train.trainer import Trainer
from yolov9k.models.checkpoints import read


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("limits") / "data", train=6, val=1, size=64)


def make(data: Path, folder: Path, **changes: Any) -> Trainer:
    (folder / "tiny.yaml").write_text(TINY)
    options: dict[str, Any] = {
        "data": str(data), "cfg": str(folder / "tiny.yaml"), "img": 64, "batch": 3, "epochs": 500, "device": "cpu",
        "workers": 0, "project": str(folder / "runs"), "noplots": True, **changes,
    }  # fmt: skip
    return Trainer(TrainOptions(**options), Console(quiet=True))


def clock(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    times = list(seconds)
    monkeypatch.setattr(time_limit.time, "perf_counter", lambda: times.pop(0))


@pytest.mark.parametrize(
    ("hours", "spent", "now", "done", "epochs"),
    [
        (1.0, 0.0, 360.0, 1, 10),
        (1.0, 0.0, 360.0, 4, 40),
        (1.0, 1800.0, 360.0, 3, 5),  # 720 seconds an epoch, 1440 are left
        (1.0, 0.0, 3599.0, 2, 2),
        (1.0, 0.0, 9999.0, 1, 1),
        (None, 0.0, 9999.0, 1, None),
    ],
)
def test_epochs_that_fit(
    hours: float | None, spent: float, now: float, done: int, epochs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, 100.0, 100.0 + now)
    assert TimeLimit(hours, spent).epochs(done) == epochs


class Planned:
    """A limit that has room for eight epochs, then for five."""

    spent = 7.5

    def epochs(self, done: int) -> int:
        return 8 if done < 3 else 5


def test_a_run_ends_with_the_epochs_that_fit(data: Path, tmp_path: Path) -> None:
    run = make(data, tmp_path, time=1.0, close_mosaic=15)
    run.limit = Planned()  # type: ignore[assignment]
    seen: list[tuple[int, int]] = []
    record = run._record

    def noted(epoch: int, *values: Any) -> None:
        record(epoch, *values)
        seen.append((run.options.epochs, run.train_loader.sampler.mosaic_epochs))

    run._record = noted  # type: ignore[method-assign]
    run.fit()
    assert seen == [(8, 6), (8, 6), (5, 4), (5, 4), (5, 4)]
    with (run.directory / "results.csv").open() as file:
        rates = [float(row["lr/pg0"]) for row in csv.DictReader(file)]
    planned = [Schedule(run.recipe, 3, 2, epochs) for epochs in (500, 8, 8, 5, 5)]
    assert rates == pytest.approx([plan.at(2 * epoch + 1).lr for epoch, plan in enumerate(planned)], rel=1e-5)
    saved = read(run.directory / "weights" / "last.pt")
    assert (saved["options"]["epochs"], saved["spent"]) == (5, 7.5)
    with pytest.raises(UserError, match="its 5 epochs are done"):
        Trainer.resume(run.directory / "weights" / "last.pt")


def test_what_an_interrupted_run_spent_counts(data: Path, tmp_path: Path) -> None:
    run = make(data, tmp_path, time=1e-6)
    run.fit()
    assert run.options.epochs == 1  # one epoch is always trained
    weights = run.directory / "weights" / "last.pt"
    spent = read(weights)["spent"]
    assert spent > 1e-6 * 3600
    again = Trainer.resume(weights, console=Console(quiet=True), epochs=3, time=None)
    assert again.limit.spent > spent
    again.fit()
    assert again.options.epochs == 3


def test_a_share_of_the_images_is_drawn_by_the_seed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def names(**changes: Any) -> list[str]:
        return [record.path.name for record in make(data, tmp_path, **changes).train_split.records]

    everything = names()
    half = names(fraction=0.5)
    assert len(half) == 3
    assert half == [name for name in everything if name in half]
    assert half == names(fraction=0.5)
    assert any(names(fraction=0.5, seed=seed) != half for seed in range(1, 4))
    assert len(names(fraction=1e-6)) == 1
    with pytest.raises(UserError, match=r"^--fraction 0: expected a number from 1e-06 to 1$"):
        make(data, tmp_path, fraction=0.0)
