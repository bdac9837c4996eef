"""augment_boxes: the reference against the definition written as loops, every backend against the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tests.augment_cases import KINDS, BoxesCase, boxes_case
from tests.backend_checks import BackendChecks
from tests.tiers import BY_DAY, examples
from tests.tolerances import FLOAT32_COORDINATES
from yolov9k import native
from yolov9k.ops import augment_boxes, available
from yolov9k.ops.augment_boxes import clip_outlines

SLOW = () if torch.cuda.is_available() else ("triton",)  # its interpreter has tests of its own, in small
BACKENDS = [name for name in available("augment_boxes") if name not in ("reference", *SLOW)]
COMPILED = [name for name in BACKENDS if name == "cpu"]
Points = list[tuple[float, float]]


def cut(points: Points, axis: int, sign: float, limit: float) -> Points:
    """A closed outline, what lies beyond sign * coordinate > limit taken away."""
    kept = []
    for here, following in zip(points, points[1:] + points[:1], strict=True):
        a, b = (limit - sign * p[axis] for p in (here, following))
        if a >= 0:
            kept.append(here)
        if (a >= 0) != (b >= 0):
            share = a / (a - b)
            kept.append((here[0] + share * (following[0] - here[0]), here[1] + share * (following[1] - here[1])))
    return kept


def hull(points: Points) -> tuple[float, float, float, float]:
    xs, ys = zip(*points, strict=True) if points else ((0.0,), (0.0,))
    return min(xs), min(ys), max(xs), max(ys)


def expected(case: BoxesCase, sample: int) -> list[list[float]]:
    """The definition, an object after another, in Python's floats."""
    (height, width), rows = case.size, []
    for view in (0, 1):
        m = case.matrices[sample, view].tolist()
        for n in range(*case.ranges[sample, view].tolist()):
            begin = int(case.ends[n - 1]) if n else 0
            moved: Points = []
            for x, y in case.points[begin : int(case.ends[n])].tolist():
                u, v, w = (row[0] * x + row[1] * y + row[2] for row in m)
                moved.append((u / w, v / w))
            rest = moved
            for axis, sign, limit in ((0, -1, 0), (0, 1, width), (1, -1, 0), (1, 1, height)):
                rest = cut(rest, axis, sign, limit)
            (a, b, c, d), (x1, y1, x2, y2) = hull(moved), hull(rest)
            wide, tall, min_area_ratio = x2 - x1, y2 - y1, float(case.min_area_ratio[n])
            share = wide * tall / max((c - a) * (d - b), 1e-9)
            good = min(wide, tall) > 2 and max(wide, tall) / max(min(wide, tall), 1e-9) < 100 and share > min_area_ratio
            if good or min_area_ratio < 0:
                row = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, wide / width, tall / height]
                rows.append([float(case.classes[n]), *row])
    return rows


@settings(deadline=None, max_examples=examples(60), derandomize=BY_DAY)
@given(st.integers(0, 2**31), st.sampled_from(["still", "upright", "turned"]))
def test_reference_is_the_definition(seed: int, kind: str) -> None:
    case = boxes_case(seed, kind=kind)
    found = augment_boxes(*case, 20, backend="reference")
    for sample in range(2):
        wanted = torch.tensor(expected(case, sample)).reshape(-1, 5)
        assert found.counts[sample] == len(wanted)
        torch.testing.assert_close(found.boxes[sample, : len(wanted)], wanted, **FLOAT32_COORDINATES)
        assert not found.boxes[sample, len(wanted) :].any()


def assert_same(case: BoxesCase, capacity: int = 20) -> None:
    """Every backend gives the bits of the reference."""
    wanted = augment_boxes(*case, capacity, backend="reference")
    for backend in BACKENDS:
        device = "cpu" if backend == "cpu" or not torch.cuda.is_available() else "cuda"
        *tensors, size = case
        found = augment_boxes(*(tensor.to(device) for tensor in tensors), size, capacity, backend=backend)
        assert torch.equal(found.counts.cpu(), wanted.counts)
        assert torch.equal(found.boxes.cpu(), wanted.boxes)


@settings(deadline=None, max_examples=examples(100), derandomize=BY_DAY)
@given(st.integers(0, 2**31), st.integers(0, 4), st.sampled_from(KINDS), st.integers(0, 8), st.integers(1, 90))
def test_backends_equal_the_reference(seed: int, images: int, kind: str, most: int, height: int) -> None:
    assert_same(boxes_case(seed, images, kind, most, (height, 64)))


def boxes_of(corners: list[list[float]], min_area_ratio: list[float], matrix: Tensor | None = None) -> BoxesCase:
    """Boxes (corners) of one view of an image of 100 x 100."""
    boxes, ratios = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4), torch.tensor(min_area_ratio, dtype=torch.float32)
    n = len(boxes)
    view = (torch.eye(3) if matrix is None else matrix).expand(1, 2, 3, 3).contiguous()
    return BoxesCase(
        boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2), torch.arange(1, n + 1) * 4, torch.arange(n), ratios,
        torch.tensor([[[0, n], [n, n]]]), view, (100, 100),
    )  # fmt: skip


def test_survivors_follow_the_recipe() -> None:
    """Both sides above 2 px, aspect below 100, enough of the area left; what is to be kept whole is."""
    outside = -1000.0
    corners = [
        [0, 0, 2, 10], [0, 0, 2.1, 10], [-7, -7, 3, 3], [-7, -7, 3, 3], [-7, -6, 3, 4], [outside, 0, outside + 5, 9],
        [0, 0, 100, 1], [0, 0, 2, 1], [-100, 0, 3, 100],
    ]  # fmt: skip
    min_area_ratio = [0.1, 0.1, 0.1, 0.01, 0.1, 0.01, 0.1, -1.0, 0.0]
    case = boxes_of(corners, min_area_ratio)
    found = augment_boxes(*case, 9)
    assert found.boxes[0, :, 0][: int(found.counts)].tolist() == [1, 3, 4, 7, 8]
    assert_same(case, 9)
    long = boxes_of([[0, 0, 400, 3.9], [0, 0, 400, 4.1]], [0.1, 0.1])._replace(size=(100, 400))
    assert augment_boxes(*long, 2).boxes[0, 0, 0] == 1
    assert_same(long)


def test_order_is_kept_and_the_second_view_follows_the_first() -> None:
    case = boxes_of([[0, 0, 9, 9], [0, 0, 1, 1], [9, 9, 20, 20], [50, 50, 60, 60]], [0.1] * 4)
    found = augment_boxes(*case._replace(ranges=torch.tensor([[[2, 4], [0, 2]]])), 5)
    assert found.boxes[0, :, 0].tolist() == [2, 3, 0, 0, 0]
    assert found.counts.tolist() == [3]


def test_what_is_not_finite_is_never_kept() -> None:
    for value in (math.nan, math.inf, -math.inf):
        case = boxes_of([[0, 0, 50, 50], [0, 0, value, 50], [0, 0, 50, 50]], [0.1, -1.0, -1.0])
        assert augment_boxes(*case, 3).boxes[0, :, 0].tolist() == [0, 2, 0]
        assert_same(case)
        assert augment_boxes(*boxes_of([[0, 0, 50, 50]], [-1.0], torch.full((3, 3), value)), 1).counts == 0


def test_no_object_no_point_no_image() -> None:
    none = boxes_of([], [])
    assert augment_boxes(*none, 1).boxes.tolist() == [[[0, 0, 0, 0, 0]]]
    assert augment_boxes(*none, 0).boxes.shape == (1, 0, 5)
    assert augment_boxes(*boxes_case(0, images=0), 4).boxes.shape == (0, 4, 5)
    pointless = none._replace(
        ends=torch.tensor([0, 0]), classes=torch.tensor([1, 2]), min_area_ratio=torch.tensor([0.1, -1]),
        ranges=torch.tensor([[[0, 2], [0, 0]]]),
    )  # fmt: skip
    assert augment_boxes(*pointless, 2).counts == 1
    for case in (none, boxes_case(0, images=0), pointless):
        assert_same(case)


def test_strides_change_nothing() -> None:
    case = boxes_case(4)
    strange = case._replace(points=case.points.T.contiguous().T, ends=case.ends.repeat_interleave(2)[::2])
    assert_same(strange)
    assert torch.equal(augment_boxes(*strange, 20).boxes, augment_boxes(*case, 20).boxes)


@pytest.mark.parametrize("backend", [name for name in available("augment_boxes") if name != "triton"])
def test_the_registration_is_sound(backend: str) -> None:
    *tensors, size = boxes_case(5)
    arguments = (*tensors, *size, 20, backend)
    torch.library.opcheck(torch.ops.yolov9k.augment_boxes.default, arguments)
    real: Any = torch.ops.yolov9k.augment_boxes(*arguments)
    with FakeTensorMode() as mode:
        fake: Any = torch.ops.yolov9k.augment_boxes(*(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments))
    assert [(a.shape, a.dtype) for a in fake] == [(a.shape, a.dtype) for a in real]
    compiled = torch.compile(lambda *case: augment_boxes(*case, size, 20, backend=backend), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*tensors).boxes, real[0])


@pytest.mark.parametrize("backend", ["reference", *(name for name in BACKENDS if name == "cpu")])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ends": torch.tensor([4, 3])}, "ends must be rising"),
        ({"ends": torch.tensor([4, 9])}, "ends must be rising"),
        ({"ends": torch.tensor([-1, 8])}, "ends must be rising"),
        ({"ranges": torch.tensor([[[0, 3], [0, 0]]])}, "ranges must be rising"),
        ({"ranges": torch.tensor([[[1, 0], [0, 0]]])}, "ranges must be rising"),
    ],
)
def test_tables_that_reach_too_far_are_refused(backend: str, change: dict[str, Tensor], message: str) -> None:
    case = boxes_of([[0, 0, 50, 50], [9, 9, 50, 50]], [0.1, 0.1])
    with pytest.raises(ValueError, match=f"augment_boxes: {message}"):
        augment_boxes(*case._replace(**change), 2, backend=backend)
    with pytest.raises(ValueError, match="augment_boxes: capacity"):
        augment_boxes(*case, 1, backend=backend)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"points": torch.zeros(8, 3)}, ValueError, r"points must have shape \[\*, 2\], got \[8, 3\]"),
        ({"points": torch.zeros(8, 2).double()}, TypeError, "points must be of dtype torch.float32"),
        ({"ends": torch.zeros(2)}, TypeError, "ends must be of dtype torch.int64"),
        ({"classes": torch.zeros(3, dtype=torch.int64)}, ValueError, r"classes must have shape \[2\], got \[3\]"),
        ({"min_area_ratio": torch.zeros(2, device="meta")}, ValueError, "min_area_ratio must be on cpu, got meta"),
        ({"matrices": torch.zeros(1, 3, 3)}, ValueError, r"matrices must have shape \[1, 2, 3, 3\]"),
        ({"size": (0, 1)}, ValueError, "size must be at least 1 x 1"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    case = boxes_of([[0, 0, 50, 50], [9, 9, 50, 50]], [0.1, 0.1])
    with pytest.raises(error, match=f"augment_boxes: {message}"):
        augment_boxes(*case._replace(**change), 2)
    with pytest.raises(ValueError, match="augment_boxes: capacity must be at least 0, got -1"):
        augment_boxes(*case, -1)


@settings(deadline=None, max_examples=examples(200), derandomize=BY_DAY)
@given(st.integers(0, 2**31), st.integers(0, 12), st.sampled_from([1.0, 7.5, 64.0]))
def test_clipped_outlines_have_the_same_bits(seed: int, count: int, extent: float) -> None:
    """Outlines of no, one and many points, on the edges too, in and around the rectangle, and jagged beyond the first room."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 30, count).astype(np.int64)
    points = rng.normal(extent / 2, extent * rng.choice([0.2, 1, 9]), (lengths.sum(), 2)).astype(np.float32)
    points[rng.random(len(points)) < 0.2] = rng.choice([0.0, extent])
    height = extent * 0.75
    wanted = clip_outlines(points, lengths, extent, height, backend="reference")
    assert [part.dtype for part in wanted] == [np.float32, np.int64, np.float32]
    for backend in COMPILED:
        for given_points in (points, np.asfortranarray(points)):
            found = clip_outlines(given_points, lengths, extent, height, backend=backend)
            assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))


@settings(deadline=None, max_examples=examples(25), derandomize=BY_DAY)
@given(st.integers(0, 2**31))
def test_clipped_outlines_are_the_definition(seed: int) -> None:
    """Edge after edge, a point at a time in double precision; the hull is that of what is left."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, 3)
    points = rng.normal(6, 8, (lengths.sum(), 2)).astype(np.float32)
    left, left_lengths, boxes = clip_outlines(points, lengths, 12, 9)
    outlines = np.split(points.astype(float), lengths.cumsum()[:-1])
    for outline, found, box in zip(outlines, np.split(left, left_lengths.cumsum()[:-1]), boxes, strict=True):
        rest: Points = [tuple(point) for point in outline.tolist()]
        for axis, sign, limit in ((0, -1, 0), (0, 1, 12), (1, -1, 0), (1, 1, 9)):
            rest = cut(rest, axis, sign, limit)
        assert len(found) == len(rest)
        wanted = np.array(rest).reshape(-1, 2)
        torch.testing.assert_close(torch.from_numpy(found).double(), torch.from_numpy(wanted), **FLOAT32_COORDINATES)
        assert np.array_equal(box, [*found.min(0), *found.max(0)] if len(found) else np.zeros(4))


def test_clipping_takes_as_much_room_as_it_needs() -> None:
    comb = np.array([[x, (-90, 9)[i % 2]] for i in range(40) for x in (i, i)], np.float32)[1:-1]
    slanted = comb @ np.array([[0.8, 0.6], [-0.6, 0.8]], np.float32)
    wanted, left, _ = clip_outlines(slanted, np.array([len(comb)]), 20, 3, backend="reference")
    found, lengths, _ = clip_outlines(slanted, np.array([len(comb)]), 20, 3)
    assert np.array_equal(found, wanted)
    assert lengths.tolist() == left.tolist()


@pytest.mark.parametrize("lengths", [[4], [2, -1], [2, 2]])
def test_wrong_lengths_of_outlines_are_refused(lengths: list[int]) -> None:
    points = np.zeros((3, 2), np.float32)
    for backend in ("reference", *COMPILED):
        with pytest.raises(ValueError, match="clip_outlines: lengths must be at least 0, together at most the 3 points"):
            clip_outlines(points, np.array(lengths), 5, 5, backend=backend)
    if native.available():
        with pytest.raises(ValueError, match="clip_outlines: lengths must not be negative"):
            native.clip_outlines(points, np.array(lengths), 5, 5)


class TestBackends(BackendChecks):
    operator = "augment_boxes"

    def call(self, backend: str) -> Tensor:
        points, ranges = torch.tensor([[1.0, 1.0], [9.0, 1.0], [9.0, 20.0]]), torch.tensor([[[0, 1], [0, 0]]])
        one, still = torch.ones(1), torch.eye(3).expand(1, 2, 3, 3)
        ends, labels = torch.tensor([3]), one.long()
        return augment_boxes(points, ends, labels, one * 0.1, ranges, still, (8, 8), 2, backend=backend).boxes
