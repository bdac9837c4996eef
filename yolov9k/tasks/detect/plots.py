"""Plots of detection: curves, confusion matrix, label statistics, batches. Figure objects only: any thread may draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from yolov9k.common.arrays import Float64Array, Image
from yolov9k.common.figures import add_legend, readable, save_figure
from yolov9k.data.draw import class_color, class_name, draw_boxes, mosaic
from yolov9k.data.images import write_image
from yolov9k.data.records import Split

if TYPE_CHECKING:
    from yolov9k.tasks.detect.metrics import Metrics

# Operating point of the confusion matrix and of drawn predictions: what a viewer of the images would see.
CONFUSION_CONFIDENCE = 0.25
CONFUSION_IOU = 0.45
_MAX_NAMED_CLASSES = 20  # a legend or a line for each class stops being readable beyond
_READABLE_SIDE = 400  # pixels of a mosaic's tile


def rgb(index: int) -> tuple[float, float, float]:
    """A class's color as matplotlib wants it."""
    blue, green, red = class_color(index)
    return red / 255, green / 255, blue / 255


def plot_curves(metrics: Metrics, directory: str | Path) -> None:
    """PR_curve.png (IoU .5) and F1_curve.png (over confidence) in the directory."""
    curves, seen = metrics.curves, _seen(metrics)
    directory = Path(directory)
    names = [f"{readable(row.name)} {row.ap50:.3f}" for row in metrics.per_class]
    title = f"precision and recall at IoU 0.5: AP50 {metrics.ap50:.3f}"
    _curve_figure(directory / "PR_curve.png", curves.recall_grid, curves.pr, names, seen, title, "recall", "precision")
    best = float(curves.f1[seen].mean(0)[curves.best]) if seen else 0.0
    title = f"F1 at IoU 0.5: best {best:.3f} at confidence {curves.best_confidence:.3f}"
    names = [readable(row.name) for row in metrics.per_class]
    _curve_figure(directory / "F1_curve.png", curves.confidence, curves.f1, names, seen, title, "confidence", "F1")


def _seen(metrics: Metrics) -> list[int]:
    return [index for index, row in enumerate(metrics.per_class) if row.instances]


def _curve_figure(
    path: Path, x: Float64Array, ys: Float64Array, names: list[str], seen: list[int], title: str, xlabel: str, ylabel: str
) -> None:
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes: Axes = figure.subplots()
    few = len(seen) <= _MAX_NAMED_CLASSES
    lines = [axes.plot(x, ys[index], color=rgb(index) if few else "0.75", linewidth=1.2 if few else 0.6)[0] for index in seen]
    if seen:
        mean = axes.plot(x, ys[seen].mean(0), color="black", linewidth=2.5)
        shown = [*(lines if few else []), *mean]
        labels = [*(names[index] for index in seen if few), f"mean of {len(seen)} classes"]
        add_legend(axes, shown, labels, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def plot_confusion(metrics: Metrics, path: str | Path) -> None:
    """confusion_matrix.png: each column (true class) as shares of its sum; a column without any stays blank."""
    counts = metrics.confusion
    sums = counts.sum(0, keepdims=True)
    share = np.where(sums > 0, counts / np.maximum(sums, 1), np.nan)
    names = [*(readable(row.name) for row in metrics.per_class), "background"]
    side = min(max(6.0, 2 + 0.28 * len(names)), 30.0)
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes: Axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if len(names) <= 40:
        for row, column in zip(*np.nonzero(share >= 0.005), strict=True):  # NaN compares false
            color = "white" if share[row, column] > 0.5 else "black"
            size = 9 if len(names) <= 15 else 5
            axes.text(column, row, f"{share[row, column]:.2f}", ha="center", va="center", fontsize=size, color=color)
    size = 10 if len(names) <= 15 else 7
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set(title="confidence 0.25, IoU 0.45", xlabel="true", ylabel="predicted")
    save_figure(figure, path, dpi=100 if len(names) > 40 else 150)


def plot_labels(split: Split, path: str | Path) -> None:
    """labels.png: instances of each class, where box centers lie and how large boxes are, as shares of the image."""
    objects = [(record.classes[~record.crowd], record.boxes.reshape(-1, 4)[~record.crowd]) for record in split.records]
    classes = np.concatenate([np.zeros(0, np.int64), *(classes for classes, _ in objects)])
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(boxes for _, boxes in objects)])
    figure = Figure(figsize=(14, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3, gridspec_kw={"width_ratios": [1.4, 1, 1]})
    _class_histogram(left, classes, split)
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    for axes, points, title, labels in (
        (middle, center, "box centers", ("x", "y")),
        (right, size, "box sizes", ("width", "height")),
    ):
        _density(axes, points)
        axes.set(title=title, xlabel=labels[0], ylabel=labels[1], xlim=(0, 1), ylim=(0, 1), aspect="equal")
    middle.invert_yaxis()  # as in the image: y grows downwards
    save_figure(figure, path)


def _class_histogram(axes: Axes, classes: NDArray[np.int64], split: Split) -> None:
    counts = np.bincount(classes, minlength=len(split.names))
    bars = axes.bar(range(len(counts)), counts, color=[rgb(index) for index in range(len(counts))])
    if len(counts) <= _MAX_NAMED_CLASSES:
        axes.bar_label(bars, fontsize=8)
    names = [readable(class_name(split.names, index)) for index in range(len(counts))]
    rotation, size = 90 if len(names) > 5 else 0, 5 if len(names) > 40 else 8
    axes.set_xticks(range(len(names)), names, rotation=rotation, fontsize=size)
    axes.set(title=f"{split.name}: {len(classes)} instances, {len(split.records)} images", ylabel="instances")


def _density(axes: Axes, points: NDArray[Any]) -> None:
    """Scatter while points can be told apart, else counts in cells."""
    if len(points) <= 5000:
        axes.scatter(points[:, 0], points[:, 1], s=6, alpha=0.35, linewidths=0)
    else:
        axes.hist2d(points[:, 0], points[:, 1], bins=60, range=[[0, 1], [0, 1]], cmap="Blues", cmin=1)


def plot_batch(images: Tensor, boxes: Tensor, counts: Tensor, names: Sequence[str], path: str | Path, limit: int = 16) -> None:
    """Mosaic of a training batch with its ground truth, for train_batchN.png.

    images uint8 [B, 3, H, W] RGB; boxes [B, G, 5] class cx cy w h normalized; counts [B]; the first `limit` images.
    """

    def tile(index: int) -> Image:
        rows = boxes[index, : int(counts[index])].double().cpu().numpy()
        image, half = _enlarged(to_bgr(images[index]))[0], rows[:, 3:5] / 2
        corners = np.concatenate([rows[:, 1:3] - half, rows[:, 1:3] + half], 1) * (image.shape[1::-1] * 2)
        return draw_boxes(image, corners, rows[:, 0], names)

    _save_mosaic(tile, min(len(images), limit), path)


def plot_detections(
    images: Tensor, detections: Tensor, counts: Tensor, names: Sequence[str], path: str | Path, limit: int = 16
) -> None:
    """Mosaic of predictions with a score of .25 or more.

    detections [B, max_det, 6] x1 y1 x2 y2 score class in pixels of the letterboxed images; the rest as in plot_batch.
    """

    def tile(index: int) -> Image:
        rows = detections[index, : int(counts[index])].double().cpu().numpy()
        rows = rows[rows[:, 4] >= CONFUSION_CONFIDENCE]
        image, zoom = _enlarged(to_bgr(images[index]))
        return draw_boxes(image, rows[:, :4] * zoom, rows[:, 5], names, rows[:, 4])

    _save_mosaic(tile, min(len(images), limit), path)


def _enlarged(image: Image) -> tuple[Image, int]:
    """A tiny image made so large that labels on it can be read, and the factor."""
    zoom = max(1, round(_READABLE_SIDE / max(image.shape[:2])))
    return image.repeat(zoom, 0).repeat(zoom, 1), zoom


def to_bgr(image: Tensor) -> Image:
    """uint8 [3, H, W] RGB -> a fresh uint8 [H, W, 3] BGR array."""
    return np.ascontiguousarray(image.detach().cpu().numpy()[::-1].transpose(1, 2, 0))


def _save_mosaic(tile: Callable[[int], Image], count: int, path: str | Path) -> None:
    image = mosaic([tile(index) for index in range(count)], columns=math.ceil(math.sqrt(count)))
    write_image(Path(path), image)
