"""results.png: the curves of a run, drawn from results.csv."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from yolov9k.common.errors import UserError
from yolov9k.common.figures import save_figure
from yolov9k.tasks import Task

COLUMNS = 3  # panels per row
LEAP = 5  # a loss that is so many times larger than three quarters of a panel's is left out of its scale


def read_results(path: str | Path) -> dict[str, NDArray[np.float64]]:
    """Columns of results.csv by name, NaN where a cell holds no number. Raises UserError for a file without rows."""
    try:
        with Path(path).open(newline="") as stream:
            rows = list(csv.DictReader(stream, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:  # a csv.Error: a zero byte, before Python 3.11
        raise UserError(f"{path}: cannot read the results ({error})") from None
    if not rows:
        raise UserError(f"{path}: no finished epoch in it, nothing to plot")
    return {name.strip(): np.array([_number(row[name]) for row in rows]) for name in rows[0] if name}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def plot_results(csv_path: str | Path, path: str | Path, task: Task) -> None:
    """results.png from results.csv: a panel for each loss of the task, in training and validation, its metrics, the learning
    rate. Raises UserError for a file without rows."""
    columns = read_results(csv_path)
    panels = [*task.panels(), ("learning rate", ["lr/pg0"])]
    losses = {loss.column(part) for loss in task.losses for part in ("train", "val")}
    rows = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3.25 * rows), layout="constrained")
    places = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes, (title, keys) in zip(places, panels, strict=False):
        _plot_panel(axes, columns, keys)
        axes.set(title=title, xlabel="epoch")
        if all(key in losses for key in keys):
            keep_scale(axes)
        axes.grid(alpha=0.3)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    save_figure(figure, path)


def _plot_panel(axes: Any, columns: dict[str, NDArray[np.float64]], keys: Sequence[str]) -> None:
    """A line for each column that has numbers."""
    epochs = columns.get("epoch", np.arange(len(next(iter(columns.values()))), dtype=np.float64))
    for key in keys:
        values = columns.get(key, np.full(len(epochs), math.nan))
        known = ~np.isnan(values)  # validation may run every few epochs only; the line bridges the gaps
        if known.any():
            marker = "o" if known.sum() < 30 else None
            axes.plot(epochs[known], values[known], marker=marker, markersize=3, label=key)
    if axes.lines:
        axes.legend(fontsize=8)


def keep_scale(axes: Any) -> None:
    """Let no single leap of a loss press the rest of its curve flat: it is cut off, and its height written down."""
    values = np.concatenate([line.get_ydata() for line in axes.lines]) if axes.lines else np.zeros(0)
    values = values[np.isfinite(values)]
    if len(values) and values.max() > (limit := LEAP * np.quantile(values, 0.75)):
        kept = values[values <= limit]
        top = 1.1 * kept.max()
        axes.set_ylim(kept.min() - 0.05 * (top - kept.min()), top)  # the leap has pulled down the lower end too
        axes.set_title(f"{axes.get_title()} (up to {values.max():.3g})")
