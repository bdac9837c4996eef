"""AP over epochs and over minutes: rows of CSV, read off each subject's own results while it trains, and their chart."""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.baselines.trainings import figures


class Point(NamedTuple):
    """One epoch. seconds: since the process was started, so that everything before the first epoch counts."""

    model: str
    subject: str
    seed: int
    epoch: int
    seconds: float
    ap50: float
    ap: float


class Watcher:
    """Call it now and then while a training runs: notes when each line of its results appeared."""

    def __init__(self, results: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.results, self._clock, self._start = results, clock, clock()
        self.seconds: list[float] = []

    def __call__(self) -> None:
        new = len(figures(self.results)) - len(self.seconds)
        self.seconds += [round(self._clock() - self._start, 1)] * max(new, 0)

    def points(self, model: str, subject: str, seed: int) -> list[Point]:
        self()
        rows = zip(self.seconds, figures(self.results), strict=True)
        return [Point(model, subject, seed, n, seconds, *ap) for n, (seconds, ap) in enumerate(rows, 1)]


def write_csv(points: Iterable[Point], path: Path) -> None:
    """One line an epoch."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Point._fields)
        writer.writerows(points)


def draw(points: list[Point], path: Path) -> None:
    """A row of two panels for each model; a seed is a thin line, the subject's mean over seeds a thick one."""
    models = list(dict.fromkeys(point.model for point in points))
    subjects = list(dict.fromkeys(point.subject for point in points))
    figure = Figure(figsize=(12, 4.5 * len(models)), layout="constrained")
    rows = figure.subplots(len(models), 2, squeeze=False)
    for axes, model in zip(rows, models, strict=True):
        for number, subject in enumerate(subjects):
            chosen = [point for point in points if (point.model, point.subject) == (model, subject)]
            if chosen:
                _lines(axes, chosen, f"C{number}", subject)
        for axis, name in zip(axes, ("epoch", "minutes since the start of the process"), strict=True):
            axis.set(xlabel=name, ylabel="AP", title=model, ylim=(0, None))
            axis.grid(alpha=0.3)
            axis.legend()
    figure.savefig(path, dpi=120)


def _lines(axes: Iterable[Axes], points: list[Point], color: str, label: str) -> None:
    by_epoch, by_minute = axes
    runs = [[p for p in points if p.seed == seed] for seed in sorted({p.seed for p in points})]
    for run in runs:
        by_epoch.plot([p.epoch for p in run], [p.ap for p in run], color=color, lw=0.7, alpha=0.6)
        by_minute.plot([p.seconds / 60 for p in run], [p.ap for p in run], color=color, lw=0.7, alpha=0.6)
    together = list(zip(*runs, strict=False))  # epochs that every seed has
    means = [statistics.mean(p.ap for p in epoch) for epoch in together]
    by_epoch.plot([epoch[0].epoch for epoch in together], means, color=color, lw=2, label=label)
    by_minute.plot([statistics.mean(p.seconds for p in e) / 60 for e in together], means, color=color, lw=2, label=label)


def at(points: list[Point], *, epoch: int | None = None, seconds: float | None = None) -> float | None:
    """The best AP that a run has reached by an epoch or a time; None before its first."""
    reached = [p.ap for p in points if (epoch is None or p.epoch <= epoch) and (seconds is None or p.seconds <= seconds)]
    return max(reached, default=None)
