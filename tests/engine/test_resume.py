"""Going on with a run: it is the run that was never stopped, whenever and however it ended."""

from __future__ import annotations

import csv
import functools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from tests.command_line import run
from tests.engine_cases import TINY
from tests.tiers import slow_case
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.synthetic import generate
from yolov9k.engine.train.trainer import Trainer

IMAGES, BATCH = 13, 2  # 7 batches an epoch, the last one of a single image


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("resume") / "data", train=IMAGES, val=1, size=64)


def plain_options(data: Path, folder: Path) -> dict[str, Any]:
    (folder / "tiny.yaml").write_text(TINY)
    return {
        "data": str(data), "cfg": str(folder / "tiny.yaml"), "img": 64, "batch": BATCH, "epochs": 2, "device": "cpu",
        "workers": 0, "project": str(folder / "runs"), "close_mosaic": 0, "noplots": True,
    }  # fmt: skip


@pytest.fixture
def options(data: Path, tmp_path: Path) -> dict[str, Any]:
    return plain_options(data, tmp_path)


def make(options: dict[str, Any], accumulate: int = 1, **changes: Any) -> Trainer:
    recipe = Path(options["project"]).with_name(f"hyp{accumulate}.yaml")
    recipe.write_text(yaml.safe_dump({"nominal_batch": accumulate * BATCH, "warmup_epochs": 0, "ema_tau": 4}))
    return Trainer(TrainOptions(**{**options, "hyp": str(recipe), **changes}), Console(quiet=True))


def resumed(run: Trainer, **changes: Any) -> Trainer:
    return Trainer.resume(run.directory / "weights" / "last.pt", console=Console(quiet=True), **changes)


def interrupt(run: Trainer, method: str, call: int = 1, signals: int = 1) -> None:
    """Send Ctrl-C in a method's call, counted from 1, before it does its work."""
    work: Callable[..., Any] = getattr(run, method)
    calls = 0

    def interrupted(*values: Any) -> Any:
        nonlocal calls
        calls += 1
        for _ in range(signals if calls == call else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return work(*values)

    setattr(run, method, interrupted)


def go_on(run: Trainer) -> Trainer:
    """Let a run be interrupted, and resume it."""
    with pytest.raises(KeyboardInterrupt) as ended:
        run.fit()
    assert str(ended.value) == f"interrupted: {run.directory}/weights/last.pt is saved; go on with --resume"
    again = resumed(run)
    again.fit()
    return again


def rows(run: Trainer) -> list[dict[str, str]]:
    """results.csv without what a clock or the machine says."""
    with (run.directory / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    return [{key: cell for key, cell in line.items() if key not in ("time", "images_per_s", "memory_gb")} for line in lines]


def assert_same_run(one: Trainer, other: Trainer) -> None:
    for mine, theirs in ((one.model, other.model), (one.step.ema, other.step.ema)):
        for key, value in theirs.state_dict().items():
            assert torch.equal(mine.state_dict()[key], value), key
    assert (one.step.updates, one.step.iteration) == (other.step.updates, other.step.iteration)
    assert rows(one) == rows(other)


Straight = Callable[[int], Trainer]


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Runs that nobody stopped, by steps to an update: 7 batches an epoch are no multiple of 3 or 4."""
    folder = tmp_path_factory.mktemp("straight")

    @functools.cache
    def run(accumulate: int) -> Trainer:
        made = make(plain_options(data, folder), accumulate, name=f"run{accumulate}")
        made.fit()
        return made

    return run


@pytest.mark.parametrize("accumulate", [slow_case(1), 3, slow_case(4)])
def test_a_run_resumed_after_an_epoch_is_the_one_that_was_not_stopped(
    options: dict[str, Any], straight: Straight, accumulate: int
) -> None:
    first = make(options, accumulate)
    interrupt(first, "_record")
    again = go_on(first)
    assert (again.first_epoch, first.step.iteration) == (1, 7)
    assert_same_run(again, straight(accumulate))


@pytest.mark.parametrize(("accumulate", "steps"), [slow_case(1, 2), (3, 5), (3, 7), slow_case(4, 9)])
def test_a_run_resumed_within_an_epoch_is_the_one_that_was_not_stopped(
    options: dict[str, Any], straight: Straight, accumulate: int, steps: int
) -> None:
    """After the seventh step all of the first epoch is trained, and neither validated nor written down."""
    first = make(options, accumulate)
    interrupt(first, "_do", steps)
    again = go_on(first)
    assert first.step.iteration == steps
    assert_same_run(again, straight(accumulate))


@pytest.mark.long
def test_a_resumed_run_of_adamw_is_the_one_that_was_not_stopped(options: dict[str, Any]) -> None:
    changes = {"optimizer": "AdamW", "override": ("lr0=0.001",)}
    straight, first = (make(options, 3, name=name, **changes) for name in ("straight", "first"))
    straight.fit()
    interrupt(first, "_do", 5)
    again = go_on(first)
    assert again.options.optimizer == "AdamW"
    assert_same_run(again, straight)


def test_an_interrupted_validation_is_done_by_the_resumed_run(options: dict[str, Any], straight: Straight) -> None:
    first = make(options, 3)
    interrupt(first, "_validate", 2)
    again = go_on(first)
    assert first.step.iteration == 14
    assert_same_run(again, straight(3))


def test_further_interrupts_do_not_end_what_saves(options: dict[str, Any], straight: Straight) -> None:
    first = make(options, 3)
    interrupt(first, "_do", 2)
    interrupt(first, "_save", 1, signals=3)
    assert_same_run(go_on(first), straight(3))


def test_what_may_be_given_anew_is_taken_from_the_command_line(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    first = make(options, 3)
    interrupt(first, "_record")
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    shutil.copytree(data.parent, tmp_path / "moved")
    moved = tmp_path / "moved" / data.name
    moved.write_text(moved.read_text().replace(str(data.parent), str(moved.parent)))
    last = first.directory / "weights" / "last.pt"
    assert run("train", "--resume", last, "--data", moved, "--workers", 1, "--epochs", 3) == 0
    kept = yaml.safe_load((first.directory / "opt.yaml").read_text())
    assert (kept["data"], kept["workers"], kept["epochs"]) == (str(moved), 1, 3)
    assert len(rows(first)) == 3


def test_a_step_that_hangs_is_ended_by_the_third_interrupt(options: dict[str, Any]) -> None:
    run = make(options)
    interrupt(run, "_do", 9, signals=3)
    last = run.directory / "weights" / "last.pt"
    with pytest.raises(KeyboardInterrupt, match=f"interrupted: {last} stays as it was; go on with --resume"):
        run.fit()
    assert resumed(run).step.iteration == 7
