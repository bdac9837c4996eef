"""Plots and drawing: every image is written, holds what it should, and never needs pyplot."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from tests import synthetic_samples
from tests.tiers import examples, slow_case
from yolov9k.common.errors import UserError
from yolov9k.data.draw import class_color, draw_boxes, mosaic, text_color
from yolov9k.engine.train.plots import keep_scale, plot_results, read_results
from yolov9k.tasks import DetectTask
from yolov9k.tasks.detect import plots
from yolov9k.tasks.detect.coco import CocoEvaluator
from yolov9k.tasks.detect.metrics import Metrics

COLUMNS = (
    "epoch,time,train/box_loss,train/cls_loss,train/dfl_loss,metrics/precision,metrics/recall,metrics/mAP_0.5,"
    "metrics/mAP_0.5:0.95,val/box_loss,val/cls_loss,val/dfl_loss,lr/pg0,images_per_s,memory_gb"
)


def written(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    assert len(np.unique(image.astype(np.int32) @ (1 << 16, 1 << 8, 1))) > 10  # colors as numbers: rows sort slowly
    return image


def metrics_of(folder: Path, classes: int = 2) -> Metrics:
    split = synthetic_samples.split(folder)
    names = [*split.names, *(f"a rather long class name {index}" for index in range(classes - 2))]
    evaluator = CocoEvaluator(names, list(range(classes)), split.records)
    for record in split.records:
        rows = np.concatenate([record.pixel_boxes, np.full((len(record.boxes), 1), 0.7), record.classes[:, None]], 1)
        evaluator.update(record.image_id, rows)
    return evaluator.compute()


@pytest.mark.parametrize("epochs", [1, slow_case(3), 60])
def test_results(tmp_path: Path, epochs: int) -> None:
    rows = [f"{e},{e},3,2,1,.1,.2,.3,.2,{'' if e % 2 else 3},,nan,{0.01 / (e + 1)},90,1.5" for e in range(epochs)]
    path = tmp_path / "results.csv"
    path.write_text("\n".join([COLUMNS, *rows]) + "\n")
    plot_results(path, tmp_path / "results.png", DetectTask())
    assert written(tmp_path / "results.png").shape == (975, 1800, 3)
    assert np.isnan(read_results(path)["val/dfl_loss"]).all()


@pytest.mark.parametrize(
    ("losses", "top", "title"),
    [([7.0, 5.5, 411138.0, 32088.0, 193.0, 3.7, 2.4, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5], 7.7, "class (up to 4.11e+05)"),
     ([7.6, 4.0, 3.0, 2.0, 1.5, 1.2, 1.1, 1.0], None, "class"), ([3.0], None, "class"), ([0.0, 0.0], None, "class"),
     ([1.0, float("inf"), 2.0], None, "class")],
)  # fmt: skip
def test_one_leap_of_a_loss_leaves_the_curve_its_scale(losses: list[float], top: float | None, title: str) -> None:
    axes = Figure().subplots()
    axes.plot(range(len(losses)), losses)
    axes.set(title="class")
    before = axes.get_ylim()[1]
    keep_scale(axes)
    low, high = axes.get_ylim()
    assert high == pytest.approx(top or before)
    assert top is None or 0 <= min(axes.lines[0].get_ydata()) - low <= 0.1 * high  # the lower end is the curve's too
    assert axes.get_title() == title


def test_a_leap_is_cut_off_in_panels_of_losses_alone(tmp_path: Path) -> None:
    leap = ("train/cls_loss", "metrics/recall")
    rows = [["411138" if name in leap and epoch == 3 else "2" for name in COLUMNS.split(",")] for epoch in range(8)]
    path = tmp_path / "results.csv"
    path.write_text("\n".join([COLUMNS, *map(",".join, rows)]) + "\n")
    plot_results(path, tmp_path / "results.svg", DetectTask())  # which holds its texts
    titles = re.findall(r"<!-- (.*) \(up to (.*)\) -->", (tmp_path / "results.svg").read_text())
    assert titles == [("cls loss", "4.11e+05")]


def test_results_of_another_making(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("  epoch,  train/box_loss\n 0, 1.5\n 1, n/a\n")  # padded, as other trainers write them
    plot_results(path, tmp_path / "results.png", DetectTask())
    written(tmp_path / "results.png")
    assert read_results(path)["train/box_loss"][0] == 1.5
    path.write_text(COLUMNS + "\n")
    with pytest.raises(UserError, match=r"results\.csv: no finished epoch"):
        plot_results(path, tmp_path / "none.png", DetectTask())
    with pytest.raises(UserError, match="cannot read"):
        plot_results(tmp_path / "missing.csv", tmp_path / "none.png", DetectTask())


@pytest.mark.parametrize("classes", [slow_case(2), 45])
def test_curves_and_confusion(tmp_path: Path, classes: int) -> None:
    metrics = metrics_of(tmp_path, classes)
    plots.plot_curves(metrics, tmp_path / "out")
    plots.plot_confusion(metrics, tmp_path / "out" / "confusion_matrix.png")
    sizes = {name: written(tmp_path / "out" / name).shape for name in ("PR_curve.png", "F1_curve.png")}
    assert set(sizes.values()) == {(900, 1350, 3)}
    side = written(tmp_path / "out" / "confusion_matrix.png").shape[0]
    assert side / (classes + 1) > 25  # pixels for each name


def test_plots_of_nothing(tmp_path: Path) -> None:
    metrics = CocoEvaluator(["a"], [1], []).compute()
    plots.plot_curves(metrics, tmp_path)
    plots.plot_confusion(metrics, tmp_path / "confusion_matrix.png")
    split = synthetic_samples.split(tmp_path)
    split.records = split.records[2:3]  # the image without objects
    plots.plot_labels(split, tmp_path / "labels.png")
    for name in ("PR_curve.png", "F1_curve.png", "confusion_matrix.png", "labels.png"):
        written(tmp_path / name)


def test_labels(tmp_path: Path) -> None:
    split = synthetic_samples.split(tmp_path)
    plots.plot_labels(split, tmp_path / "few.png")
    many = split.records[0]
    many.boxes = np.random.default_rng(0).random((6000, 4)).astype(np.float32)
    many.classes, many.crowd = np.zeros(6000, np.int64), np.zeros(6000, np.bool_)
    plots.plot_labels(split, tmp_path / "many.png")
    assert written(tmp_path / "few.png").shape == written(tmp_path / "many.png").shape


def test_threads_may_plot(tmp_path: Path) -> None:
    metrics = metrics_of(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: plots.plot_confusion(metrics, tmp_path / f"{i}.png"), range(4)))
    first = written(tmp_path / "0.png")
    assert all(np.array_equal(first, written(tmp_path / f"{i}.png")) for i in range(1, 4))


def test_batch_mosaic_shows_each_box(tmp_path: Path) -> None:
    images = torch.full((5, 3, 400, 300), 114, dtype=torch.uint8)
    boxes = torch.zeros(5, 3, 5)
    boxes[:, 0] = torch.tensor([1, 0.5, 0.5, 0.4, 0.2])
    counts = torch.tensor([1, 1, 0, 1, 1])
    plots.plot_batch(images, boxes, counts, ["a", "b"], tmp_path / "t" / "train_batch0.png")
    image = cv2.imread(str(tmp_path / "t" / "train_batch0.png"))
    assert image.shape == (800, 900, 3)
    color = np.array(class_color(1))
    tiles = [image[400 * (i // 3) : 400 * (i // 3) + 400, 300 * (i % 3) : 300 * (i % 3) + 300] for i in range(6)]
    edges = [bool((tile[160, 100:200] == color).all()) for tile in tiles]  # top edge: y = .4 * 400, x = .3 .. .7
    assert edges == [True, True, False, True, True, False]


def test_small_images_are_enlarged_in_mosaics(tmp_path: Path) -> None:
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    plots.plot_batch(images, torch.zeros(1, 1, 5), torch.tensor([1]), ["a"], tmp_path / "b.png")
    assert cv2.imread(str(tmp_path / "b.png")).shape == (384, 384, 3)


def test_mosaic_keeps_to_its_limit() -> None:
    tiles = [np.full((640, 512, 3), value, np.uint8) for value in (10, 200, 30, 40)]
    image = mosaic(tiles, columns=4, limit=1024)
    assert image.shape == (320, 1024, 3)
    assert image[100, 300].tolist() == [200] * 3


def test_colors_are_distinct_and_fixed() -> None:
    colors = np.array([class_color(index) for index in range(80)], float)
    assert class_color(0) == class_color(0)
    apart = np.abs(colors[:, None] - colors).sum(-1) + 1000 * np.eye(80)
    assert apart[:20, :20].min() > 60
    assert apart.min() > 10
    assert text_color((255, 255, 255)) == (0, 0, 0)
    assert text_color((120, 0, 0)) == (255, 255, 255)


coordinate = st.floats(-500, 500, width=32) | st.sampled_from([float("nan"), float("inf"), -1e30])


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.lists(st.tuples(*[coordinate] * 4), max_size=4))
def test_any_box_on_any_image(height: int, width: int, boxes: list[tuple[float, ...]]) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    table = np.array(boxes, np.float32).reshape(-1, 4)
    drawn = draw_boxes(image, table, np.arange(len(table)) + 70, ["only"], np.full(len(table), 0.5))
    assert drawn is image
    assert drawn.shape == (height, width, 3)


def test_labels_can_be_hidden() -> None:
    boxes, classes, scores = np.array([[40, 40, 200, 150]]), np.array([0]), np.array([0.51])
    drawn = [
        draw_boxes(np.zeros((240, 240, 3), np.uint8), boxes, classes, ["cat"], scores, labels=labels, confidences=score)
        for labels, score in [(True, True), (True, False), (False, True), (False, False)]
    ]
    painted = [int((image > 0).any(-1).sum()) for image in drawn]
    assert painted[0] > max(painted[1:3])
    assert painted[3] < min(painted[:3])
