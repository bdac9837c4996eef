"""Suppression: the reference against the greedy definition written as loops, every backend against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tests.backend_checks import BackendChecks
from tests.support import nms_prediction
from tests.tiers import BY_DAY, examples
from yolov9k.ops import available, batched_nms

BACKENDS = [name for name in available("batched_nms") if name != "reference"]
Row = tuple[float, ...]


def iou(a: Row, b: Row) -> float:
    overlap = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def loops(
    image: Tensor, conf: float, threshold: float, classes: list[int] | None, agnostic: bool, multi: bool, most: int
) -> list[Row]:
    """The definition, one candidate at a time, of a float64 prediction [4 + nc, A]."""
    rows = []
    for x, y, w, h, *scores in image.T.tolist():
        chosen = range(len(scores)) if multi else [max(range(len(scores)), key=lambda c: (scores[c], -c))]
        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        rows += [(*box, scores[c], float(c)) for c in chosen if scores[c] > conf and (classes is None or c in classes)]
    rows.sort(key=lambda row: -row[4])  # a stable sort: ties stay in the order of anchors, then classes
    kept: list[Row] = []
    for row in rows:
        if all(iou(other, row) <= threshold or not (agnostic or other[5] == row[5]) for other in kept):
            kept.append(row)
    return kept[:most]


options = st.tuples(
    st.sampled_from([0.0, 0.1, 0.6]), st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.sampled_from([None, [0], [1, 2]]),
    st.booleans(), st.booleans(), st.sampled_from([1, 7, 300]),
)  # fmt: skip


@settings(deadline=None, max_examples=examples(60), derandomize=BY_DAY)
@given(st.integers(0, 2**31), st.integers(0, 2), st.integers(1, 40), options)
def test_reference_is_the_definition(seed: int, images: int, anchors: int, chosen: tuple[Any, ...]) -> None:
    prediction = nms_prediction(seed, images, 3, anchors, 60.0, torch.float64)
    found = batched_nms(prediction, *chosen, backend="reference")
    for image, rows, count in zip(prediction, found.detections, found.counts.tolist(), strict=True):
        wanted = torch.tensor(loops(image, *chosen), dtype=torch.float64).view(-1, 6)
        assert count == len(wanted)
        assert torch.equal(rows[:count], wanted)
        assert not rows[count:].any()


def assert_same(prediction: Tensor, *chosen: Any, **more: Any) -> None:
    """Every backend equals the reference to the bit."""
    wanted = batched_nms(prediction, *chosen, **more, backend="reference")
    for backend in BACKENDS:
        found = batched_nms(prediction.to("cuda" if backend == "cuda" else "cpu"), *chosen, **more, backend=backend)
        assert torch.equal(found.counts.cpu(), wanted.counts)
        assert torch.equal(found.detections.cpu(), wanted.detections)


@settings(deadline=None, max_examples=examples(80), derandomize=BY_DAY)
@given(
    st.integers(0, 2**31), st.integers(0, 3), st.sampled_from([3, 4, 80]), st.sampled_from([0, 1, 2, 63, 64, 65, 700]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.booleans(), options,
)  # fmt: skip
def test_backends_equal_the_reference(
    seed: int, images: int, classes: int, anchors: int, dtype: torch.dtype, by_anchor: bool, chosen: tuple[Any, ...]
) -> None:
    prediction = nms_prediction(seed, images, classes, anchors, 100.0, dtype)
    if by_anchor:
        prediction = prediction.transpose(1, 2).contiguous().transpose(1, 2)
    assert_same(prediction, *chosen)


@pytest.mark.parametrize("classes", [1, 1203])
def test_one_class_and_many(classes: int) -> None:
    assert_same(nms_prediction(1, 1, classes, 90), 0.2, 0.5, multi_label=True)


def test_all_alike_leave_the_first() -> None:
    prediction = torch.tensor([50.0, 50, 20, 20, 0.5, 0.5]).view(1, 6, 1).expand(2, 6, 500)
    for agnostic, count in ((True, 1), (False, 2)):
        found = batched_nms(prediction, 0.1, 0.5, class_agnostic=agnostic, multi_label=True)
        assert found.counts.tolist() == [count, count]
        assert found.detections[0, :count, 5].tolist() == list(range(count))
        assert_same(prediction, 0.1, 0.5, class_agnostic=agnostic, multi_label=True)


def test_boxes_apart_all_stay_and_equal_scores_keep_their_order() -> None:
    place = torch.arange(900.0)
    boxes = torch.stack((place % 30 * 10, place // 30 * 10, torch.full_like(place, 8), torch.full_like(place, 8)))
    prediction = torch.cat((boxes, torch.full((1, 900), 0.5)))[None]
    found = batched_nms(prediction, 0.1, 0.0, max_detections=1000)
    assert found.counts.item() == 900
    assert torch.equal(found.detections[0, :900, 0] + 4, boxes[0])
    assert_same(prediction, 0.1, 0.0, max_detections=1000)


@pytest.mark.parametrize("alike", [False, True])
def test_only_the_best_thirty_thousand_compete(alike: bool) -> None:
    """Three boxes apart, the third one last of 30,001 candidates: it is never looked at."""
    anchors = 30_001
    prediction = torch.zeros(1, 5, anchors)
    prediction[0, 2:4] = 8.0
    prediction[0, 0, 0], prediction[0, 0, -1] = 100.0, 200.0
    prediction[0, 4] = 0.5 if alike else torch.linspace(0.9, 0.1, anchors)
    found = batched_nms(prediction, 0.05, 0.5)
    assert found.detections[0, : found.counts.item(), 0].tolist() == [96.0, -4.0]
    prediction[0, 4, -2] = 0.0  # one candidate less
    assert batched_nms(prediction, 0.05, 0.5).detections[0, :3, 0].tolist() == [96.0, -4.0, 196.0]
    assert_same(prediction, 0.05, 0.5)


def test_what_is_not_finite_is_never_chosen() -> None:
    prediction = nms_prediction(2, 2, 3, 200)
    prediction[0, 0, ::7], prediction[0, 3, ::5], prediction[1, 4, ::3] = float("nan"), float("inf"), float("inf")
    prediction[1, 5, ::4], prediction[1, 2, ::11] = float("nan"), 1e38
    for multi in (False, True):
        found = batched_nms(prediction, 0.0, 0.5, multi_label=multi, max_detections=600)
        assert found.detections.isfinite().all()
        assert_same(prediction, 0.0, 0.5, multi_label=multi, max_detections=600)


def test_flat_and_inverted_boxes_overlap_nothing() -> None:
    prediction = nms_prediction(3, 1, 1, 50)
    prediction[0, 2] = 0.0
    assert batched_nms(prediction, 0.0, 0.0).counts.item() == 50
    prediction[0, 2], prediction[0, 3] = -5.0, 4.0
    assert_same(prediction, 0.0, 0.3)


def test_no_class_wanted_gives_nothing() -> None:
    assert batched_nms(nms_prediction(4, 2, 3, 50), 0.0, 0.5, classes=[]).counts.tolist() == [0, 0]


def test_images_do_not_see_each_other() -> None:
    prediction = nms_prediction(5, 4, 3, 300)
    whole = batched_nms(prediction, 0.1, 0.5, multi_label=True)
    for i in range(4):
        alone = batched_nms(prediction[i : i + 1], 0.1, 0.5, multi_label=True)
        assert torch.equal(whole.detections[i], alone.detections[0])


@pytest.mark.parametrize("backend", [name for name in available("batched_nms") if name != "cuda"])
def test_strides_change_nothing(backend: str) -> None:
    prediction = nms_prediction(6, 3, 2, 150)
    strange = torch.stack((prediction, prediction), -1)[..., 0]
    plain, other = (batched_nms(some, 0.1, 0.5, multi_label=True, backend=backend) for some in (prediction, strange))
    assert torch.equal(plain.detections, other.detections)


@pytest.mark.parametrize("backend", [name for name in available("batched_nms") if name != "cuda"])
def test_the_registration_is_sound(backend: str) -> None:
    arguments = (nms_prediction(7, 2, 3, 60), 0.1, 0.5, [0, 2], False, True, 30, backend)
    torch.library.opcheck(torch.ops.yolov9k.batched_nms.default, arguments)
    real = torch.ops.yolov9k.batched_nms(*arguments)
    with FakeTensorMode() as mode:
        fake = torch.ops.yolov9k.batched_nms(mode.from_tensor(arguments[0]), *arguments[1:])
    assert [(a.shape, a.dtype) for a in fake] == [(a.shape, a.dtype) for a in real]
    compiled = torch.compile(lambda p: batched_nms(p, *arguments[1:]), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(arguments[0])[0], real[0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prediction": torch.zeros(5, 3)}, ValueError, r"prediction must have shape \[\*, \*, \*\], got \[5, 3\]"),
        ({"prediction": torch.zeros(1, 5, 3).int()}, TypeError, "prediction must be of a floating-point dtype"),
        ({"prediction": torch.zeros(1, 4, 3)}, ValueError, "prediction must be at least 5 rows high"),
        ({"conf_threshold": 1.5}, ValueError, r"conf_threshold must be in \[0, 1\], got 1.5"),
        ({"iou_threshold": -0.1}, ValueError, r"iou_threshold must be in \[0, 1\], got -0.1"),
        ({"max_detections": 0}, ValueError, "max_detections must be at least 1, got 0"),
        ({"classes": [0, 2]}, ValueError, r"classes must be class numbers below 2, got \[0, 2\]"),
        ({"backend": "tpu"}, ValueError, "backend must be one of auto, reference, cpu, cuda, triton; got 'tpu'"),
        ({"backend": "triton"}, RuntimeError, "backend 'triton' is not implemented"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    usual = {"prediction": torch.zeros(1, 6, 3), "conf_threshold": 0.1, "iou_threshold": 0.5}
    with pytest.raises(error, match=f"batched_nms: {message}"):
        batched_nms(**{**usual, **arguments})


class TestBackends(BackendChecks):
    operator = "batched_nms"

    def call(self, backend: str) -> Tensor:
        return batched_nms(torch.zeros(1, 6, 3), 0.1, 0.5, backend=backend).detections
