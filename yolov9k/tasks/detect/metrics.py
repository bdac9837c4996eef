"""Figures of a detection evaluation, by class and over all."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from yolov9k.common.arrays import Float64Array
from yolov9k.common.console import add_columns, name_cell
from yolov9k.tasks.detect import plots


@dataclass(frozen=True)
class ClassMetrics:
    """One class: images and instances that hold it (crowds not counted) and its figures, NaN where it has no ground truth."""

    name: str
    images: int
    instances: int
    precision: float
    recall: float
    ap50: float
    ap: float


@dataclass(frozen=True)
class Curves:
    """pr [classes, 101]: precision over `recall_grid` at IoU .5, NaN for a class without ground truth.

    precision, recall, f1 [classes, 1001]: over `confidence`; `best` is the index in it of the highest mean F1.
    """

    recall_grid: Float64Array
    pr: Float64Array
    confidence: Float64Array
    precision: Float64Array
    recall: Float64Array
    f1: Float64Array
    best: int

    @property
    def best_confidence(self) -> float:
        return float(self.confidence[self.best])


@dataclass(frozen=True)
class Metrics:
    """COCO figures, 0..1; means leave out classes without ground truth, and a size (small, medium, large) without any is NaN.

    precision, recall: class means at the confidence of the best mean F1, IoU .5.
    confusion [classes + 1, classes + 1]: rows predicted, columns true, last is background; confidence .25, IoU .45.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar100: float
    precision: float
    recall: float
    images: int
    per_class: list[ClassMetrics]
    curves: Curves = field(repr=False)
    confusion: NDArray[np.int64] = field(repr=False)

    @property
    def fitness(self) -> float:
        """What the best checkpoint is chosen by: 0.1 AP50 + 0.9 AP, as published."""
        return 0.1 * self.ap50 + 0.9 * self.ap

    def columns(self) -> dict[str, float]:
        """Values by their columns in results.csv."""
        return {
            "metrics/precision": self.precision,
            "metrics/recall": self.recall,
            "metrics/mAP_0.5": self.ap50,
            "metrics/mAP_0.5:0.95": self.ap,
        }

    def to_dict(self) -> dict[str, Any]:
        """Scalars and the per-class list, ready for JSON: NaN becomes None."""
        scalars = "ap ap50 ap75 ap_small ap_medium ap_large ar100 precision recall fitness images"
        classes = [{key: _or_none(value) for key, value in vars(row).items()} for row in self.per_class]
        return {**{name: _or_none(getattr(self, name)) for name in scalars.split()}, "per_class": classes}

    def print(self, console: Console) -> None:
        """A table of all classes with ground truth, then the other figures on lines below."""
        table = Table(header_style="bold")
        add_columns(table, "class", "images", "instances", "precision", "recall", "AP50", "AP")
        seen = [row for row in self.per_class if row.instances]
        figures = self.precision, self.recall, self.ap50, self.ap
        total = str(sum(row.instances for row in seen))
        table.add_row("all", str(self.images), total, *map(_figure, figures), style="bold", end_section=True)
        for row in seen if len(seen) > 1 else []:
            figures = row.precision, row.recall, row.ap50, row.ap
            table.add_row(name_cell(row.name), str(row.images), str(row.instances), *map(_figure, figures))
        console.print(table)
        sizes = f"small {_figure(self.ap_small)}, medium {_figure(self.ap_medium)}, large {_figure(self.ap_large)}"
        console.print(f"AP75 {_figure(self.ap75)}, AP {sizes}, AR100 {_figure(self.ar100)}", highlight=False)

    def plot(self, directory: Path) -> None:
        """PR_curve.png, F1_curve.png and confusion_matrix.png in the directory."""
        plots.plot_curves(self, directory)
        plots.plot_confusion(self, directory / "confusion_matrix.png")


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
