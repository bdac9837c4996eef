"""COCO evaluation against the official figures, and its corner cases against hand-made ground truth."""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.official_figures import OFFICIAL
from tests.support import shared
from tests.tiers import examples
from tests.tolerances import COCO_AP
from yolov9k.common.errors import UserError
from yolov9k.data.records import Record
from yolov9k.tasks.detect.coco import CocoEvaluator


def record(image_id: int, rows: list[list[float]], crowd: list[bool] | None = None) -> Record:
    """100 x 100 pixels; rows: class x1 y1 x2 y2 in pixels."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    areas = (table[:, 3] - table[:, 1]) * (table[:, 4] - table[:, 2])
    flags = np.array(crowd or [False] * len(table), bool)
    nothing: list[None] = [None] * len(table)
    classes = table[:, 0].astype(np.int64)
    return Record(Path(f"{image_id}.png"), image_id, 100, 100, classes, table[:, 1:] / 100, nothing, flags, areas)


def found(*rows: list[float]) -> torch.Tensor:
    """rows: x1 y1 x2 y2 score class."""
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)


@pytest.fixture(scope="module")
def coco() -> tuple[Path, list[dict[str, object]]]:
    folder = shared("coco-eval")
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    return folder / "instances_val2014_100.json", results


def test_official_figures(coco: tuple[Path, list[dict[str, object]]]) -> None:
    evaluator = CocoEvaluator.from_json(coco[0])
    evaluator.add_results(coco[1])
    metrics = evaluator.compute()
    for name, value in OFFICIAL.items():
        assert getattr(metrics, name) == pytest.approx(value, abs=COCO_AP)
    assert metrics.fitness == pytest.approx(0.1 * OFFICIAL["ap50"] + 0.9 * OFFICIAL["ap"], abs=COCO_AP)
    assert metrics.images == 100
    assert sum(row.instances for row in metrics.per_class) == 839 - 9  # nine are crowds
    assert [row.name for row in metrics.per_class][:2] == ["person", "bicycle"]


def test_update_gives_what_results_give(coco: tuple[Path, list[dict[str, object]]]) -> None:
    evaluator = CocoEvaluator.from_json(coco[0])
    class_of = {category: index for index, category in enumerate(evaluator.category_ids)}
    rows: dict[int, list[list[float]]] = {}
    for result in coco[1]:
        x, y, w, h = result["bbox"]
        row = [x, y, x + w, y + h, result["score"], class_of[result["category_id"]]]
        rows.setdefault(result["image_id"], []).append(row)
    for image_id, detections in rows.items():
        evaluator.update(image_id, torch.tensor(detections, dtype=torch.float64))
    assert evaluator.compute().ap == pytest.approx(OFFICIAL["ap"], abs=COCO_AP)


def test_size_figures_match_the_library_alone(coco: tuple[Path, list[dict[str, object]]]) -> None:
    truth = COCO(str(coco[0]))
    library = COCOeval_faster(truth, truth.loadRes(json.loads(json.dumps(coco[1]))), "bbox")
    library.run()
    evaluator = CocoEvaluator.from_json(coco[0])
    evaluator.add_results(coco[1])
    metrics = evaluator.compute()
    ours = [metrics.ap, metrics.ap50, metrics.ap75, metrics.ap_small, metrics.ap_medium, metrics.ap_large]
    np.testing.assert_allclose(ours, library.stats[:6], atol=COCO_AP)
    assert metrics.ar100 == pytest.approx(library.stats[8], abs=COCO_AP)
    recall = np.asarray(library.eval["recall"])[0, :, 0, -1]
    np.testing.assert_allclose(metrics.curves.recall[recall >= 0, 0], recall[recall >= 0], atol=COCO_AP)


def test_saved_results_are_coco_results(coco: tuple[Path, list[dict[str, object]]], tmp_path: Path) -> None:
    evaluator = CocoEvaluator.from_json(coco[0])
    evaluator.add_results(coco[1])
    path = tmp_path / "new" / "results.json"
    evaluator.save_json(path)
    saved = json.loads(path.read_text())
    assert list(path.parent.iterdir()) == [path]
    key = lambda row: (row["image_id"], row["category_id"], row["score"], row["bbox"])  # noqa: E731
    assert sorted(saved, key=key) == sorted(coco[1], key=key)  # the file has 2 and 3 decimals itself


def test_category_ids_in_any_order(tmp_path: Path) -> None:
    truth = [record(1, [[0, 0, 0, 50, 50]]), record(2, [[1, 20, 20, 90, 90]])]
    evaluator = CocoEvaluator(["a", "b"], [90, 3], truth)
    evaluator.update(1, found([0, 0, 50, 50, 0.9, 0]))
    evaluator.update(2, found([20, 20, 90, 90, 0.123456, 0]))
    metrics = evaluator.compute()
    assert [row.ap for row in metrics.per_class] == [1.0, 0.0]
    evaluator.save_json(tmp_path / "r.json")
    saved = json.loads((tmp_path / "r.json").read_text())
    assert saved[0]["category_id"] == saved[1]["category_id"] == 90
    assert saved[1] == {"image_id": 2, "category_id": 90, "bbox": [20.0, 20.0, 70.0, 70.0], "score": 0.12346}


def test_class_without_truth_is_left_out_of_means() -> None:
    evaluator = CocoEvaluator(["seen", "absent"], [0, 1], [record(1, [[0, 0, 0, 50, 50]]), record(2, [])])
    evaluator.update(1, found([0, 0, 50, 50, 0.9, 0], [60, 60, 90, 90, 0.8, 1]))
    metrics = evaluator.compute()
    assert (metrics.ap, metrics.ap50, metrics.precision, metrics.recall) == (1.0, 1.0, 1.0, 1.0)
    assert math.isnan(metrics.per_class[1].ap)
    assert math.isnan(metrics.per_class[1].precision)
    assert math.isnan(metrics.ap_small)
    assert (metrics.per_class[0].images, metrics.per_class[0].instances) == (1, 1)
    assert json.loads(json.dumps(metrics.to_dict(), allow_nan=False))["per_class"][1]["ap"] is None


@pytest.mark.parametrize("truth", [[], [[0, 10, 10, 60, 60]]])
@pytest.mark.parametrize("boxes", [[], [[10, 10, 60, 60, 0.9, 1]]])
def test_nothing_found_or_nothing_there_is_zero(truth: list[list[float]], boxes: list[list[float]]) -> None:
    evaluator = CocoEvaluator(["a", "b"], [1, 2], [record(4, truth)])
    evaluator.update(4, found(*boxes))
    metrics = evaluator.compute()
    assert (metrics.ap, metrics.ap50, metrics.ap75, metrics.ar100) == (0, 0, 0, 0)
    assert (metrics.precision, metrics.recall, metrics.fitness) == (0, 0, 0)
    assert np.isfinite(metrics.curves.f1).all()


def test_no_images_at_all() -> None:
    assert CocoEvaluator(["a"], [1], []).compute().ap == 0


def test_detections_in_a_crowd_are_neither_right_nor_wrong() -> None:
    truth = record(1, [[0, 0, 0, 20, 20], [0, 40, 40, 100, 100]], crowd=[False, True])
    inside, outside = [50, 50, 60, 60, 0.95, 0], [25, 0, 38, 20, 0.9, 0]
    evaluator = CocoEvaluator(["a"], [1], [truth])
    evaluator.update(1, found([0, 0, 20, 20, 0.9, 0], inside, [70, 70, 80, 80, 0.8, 0]))
    metrics = evaluator.compute()
    assert (metrics.ap, metrics.precision, metrics.recall) == (1.0, 1.0, 1.0)
    assert metrics.per_class[0].instances == 1
    np.testing.assert_array_equal(metrics.confusion, [[1, 0], [0, 0]])
    evaluator.update(1, found(outside))
    np.testing.assert_array_equal(evaluator.compute().confusion, [[1, 1], [0, 0]])


def test_precision_and_recall_at_the_best_f1() -> None:
    """Scores .9 hit, .8 hit, .7 false, .6 hit of 4 objects: F1 is 2/3 down to .8, 4/7 at .7, 3/4 at .6."""
    boxes = [[0, 0, 20, 20], [30, 0, 50, 20], [60, 0, 80, 20], [0, 50, 20, 70]]
    evaluator = CocoEvaluator(["a"], [1], [record(1, [[0, *box] for box in boxes])])
    false = [50, 50, 90, 90]
    rows = zip([boxes[0], boxes[1], false, boxes[2]], [0.9, 0.8, 0.7, 0.6], strict=True)
    evaluator.update(1, found(*[[*box, score, 0] for box, score in rows]))
    metrics = evaluator.compute()
    assert (metrics.precision, metrics.recall) == (0.75, 0.75)
    at = {score: round(1000 * score) for score in (0.95, 0.85, 0.75, 0.65)}
    curve = metrics.curves.f1[0]
    assert [curve[at[s]] for s in at] == pytest.approx([0, 0.4, 2 / 3, 4 / 7])
    assert curve[0] == pytest.approx(0.75)


def test_confusion_counts_by_hand() -> None:
    truth = record(1, [[0, 0, 0, 20, 20], [1, 40, 40, 60, 60], [1, 80, 80, 99, 99]])
    evaluator = CocoEvaluator(["a", "b"], [1, 2], [truth])
    weak = [80, 80, 99, 99, 0.2, 1]  # below the confidence of the matrix
    evaluator.update(1, found([0, 0, 20, 20, 0.9, 0], [40, 40, 60, 60, 0.9, 0], [0, 60, 20, 80, 0.5, 1], weak))
    expected = [[1, 1, 0], [0, 0, 1], [0, 1, 0]]  # rows predicted, columns true, last is background
    np.testing.assert_array_equal(evaluator.compute().confusion, expected)


box = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(5, 40), st.integers(5, 40))
truth_row = st.tuples(st.integers(0, 2), box)
detection = st.tuples(st.integers(0, 2), box, st.integers(1, 99))


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(truth_row, max_size=6), st.lists(detection, max_size=12, unique_by=lambda row: row[2]))
def test_sums_and_recall(truth: list[tuple], detections: list[tuple]) -> None:
    """Every true box and every confident detection is counted in the matrix once; recall at .0 is the library's at IoU .5."""
    rows = [[index, x, y, x + w, y + h] for index, (x, y, w, h) in truth]
    evaluator = CocoEvaluator(["a", "b", "c"], [1, 2, 3], [record(1, rows)])
    table = [[x, y, x + w, y + h, score / 100, index] for index, (x, y, w, h), score in detections]
    evaluator.update(1, found(*table))
    metrics = evaluator.compute()
    count = np.bincount([row[0] for row in rows], minlength=3)
    confident = np.bincount([row[5] for row in table if row[4] >= 0.25], minlength=3)
    np.testing.assert_array_equal(metrics.confusion.sum(0)[:3], count)
    np.testing.assert_array_equal(metrics.confusion.sum(1)[:3], confident)
    assert 0 <= metrics.ap <= metrics.ap50 <= 1
    recall, _ = evaluator._coco_arrays(bool(len(rows)))[1], None
    seen = count > 0
    np.testing.assert_allclose(metrics.curves.recall[seen, 0], recall[0, seen, 0], atol=1e-9)


def test_misuse_is_named(tmp_path: Path) -> None:
    evaluator = CocoEvaluator(["a"], [5], [record(1, [])])
    with pytest.raises(ValueError, match=r"\[n, 6\], got \[5\]"):
        evaluator.update(1, torch.zeros(5))
    with pytest.raises(ValueError, match="image id 9"):
        evaluator.update(9, found())
    with pytest.raises(ValueError, match="below 1, got 3"):
        evaluator.update(1, found([0, 0, 1, 1, 0.5, 3]))
    with pytest.raises(UserError, match="COCO result 0 does not fit"):
        evaluator.add_results([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}])
    with pytest.raises(ValueError, match="comes twice"):
        CocoEvaluator(["a"], [1], [record(1, []), record(1, [])])
    with pytest.raises(ValueError, match="2 class names but 1"):
        CocoEvaluator(["a", "b"], [1], [])
    bad = tmp_path / "bad.json"
    bad.write_text('{"images": []}')
    with pytest.raises(UserError, match=r"bad\.json: not a COCO instances file"):
        CocoEvaluator.from_json(bad)


def test_the_garbage_collector_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = CocoEvaluator(["a"], [1], [record(1, [[0, 10, 10, 50, 50]])])
    evaluator.update(1, found([10, 10, 50, 50, 0.9, 0]))
    evaluator.compute()
    assert gc.isenabled()
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "_coco_arrays", lambda _: pytest.fail("on purpose"))
        with pytest.raises(pytest.fail.Exception, match="on purpose"):
            evaluator.compute()
    assert gc.isenabled()
    gc.disable()
    try:
        evaluator.compute()
        assert not gc.isenabled()
    finally:
        gc.enable()
