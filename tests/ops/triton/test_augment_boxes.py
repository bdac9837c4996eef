"""The Triton kernel of augment_boxes against its reference: the same bits, on a GPU or in the interpreter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.augment_cases import KINDS, BoxesCase, boxes_case
from tests.tiers import drawn
from tests.triton_cases import DEVICE, assert_captured_alike, moved, needs_gpu
from yolov9k.ops import augment_boxes
from yolov9k.ops.augment_boxes import Boxes

pytest.importorskip("triton")

pytestmark = pytest.mark.interpret


def assert_same_boxes(case: BoxesCase, capacity: int) -> Boxes:
    """Equal rows in equal order, zeros behind them; the boxes."""
    found, wanted = (
        augment_boxes(*moved(case), capacity, backend="triton"),
        augment_boxes(*case, capacity, backend="reference"),
    )
    assert torch.equal(found.counts.cpu(), wanted.counts)
    assert torch.equal(found.boxes.cpu(), wanted.boxes)
    return wanted


@drawn(5, 12, st.integers(0, 2**31), st.integers(0, 2), st.sampled_from(KINDS), st.integers(0, 3))
def test_boxes_have_the_bits_of_the_reference(seed: int, images: int, kind: str, most: int) -> None:
    assert_same_boxes(boxes_case(seed, images, kind, most), 7)


def objects(
    outlines: list[np.ndarray], min_area_ratio: float = 0.1, view: Tensor | None = None, split: int | None = None
) -> BoxesCase:
    """One sample's objects, those from `split` on in the second view."""
    count = len(outlines)
    middle = count if split is None else split
    ends = torch.tensor([len(outline) for outline in outlines], dtype=torch.int64).cumsum(0)
    return BoxesCase(
        torch.from_numpy(np.concatenate([np.zeros((0, 2)), *outlines]).astype(np.float32)), ends, torch.arange(count),
        torch.full((count,), min_area_ratio), torch.tensor([[[0, middle], [middle, count]]]),
        (torch.eye(3) if view is None else view).expand(1, 2, 3, 3).contiguous(), (48, 64),
    )  # fmt: skip


def box(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def test_many_boxes_stay_in_order() -> None:
    """More than a program takes at a time, some of each time dropped."""
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(-20, 60, (85, 2)), rng.uniform(0, 40, (85, 2))
    case = objects([box(*corner, *(corner + side)) for corner, side in zip(corners, sides, strict=True)], split=78)
    found = assert_same_boxes(case, 85)
    kept = int(found.counts)
    assert 32 < kept < 85
    assert (found.boxes[0, :kept, 0].diff() > 0).all()


@pytest.mark.parametrize("min_area_ratio", [-1.0, 0.0, 0.5, math.nan])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_outlines_of_every_odd_kind(min_area_ratio: float) -> None:
    """Nothing, a point, a line, all of the image, around it, outside each side, on the edges, a bow tie, no numbers."""
    around = np.array([[-40, 24], [32, -40], [110, 24], [32, 90]])
    edge = np.array([[0, 0], [64, 0], [64, 48], [0, 48]])
    odd = [
        np.zeros((0, 2)), np.array([[5, 5]]), np.array([[5, 5], [90, 60]]), box(-9, -9, 99, 99), around, edge,
        box(-30, 5, -3, 20), box(70, 5, 90, 20), box(5, -30, 20, -3), box(5, 50, 20, 70), box(-30, -30, -5, -5),
        box(10, 10, 12, 30), box(10, 10, 12.01, 30), np.array([[-8, 4], [70, 40], [70, 4], [-8, 40]]),
        np.array([[1, 1], [math.nan, 20], [30, 30]]), np.array([[1, 1], [40, math.inf], [30, 30]]), box(60, 40, 70, 60),
        box(-10, 10, 10, 30),  # cut down to a half, which is not above a half
    ]  # fmt: skip
    found = assert_same_boxes(objects(odd, min_area_ratio), len(odd))
    assert int(found.counts) == (0 if math.isnan(min_area_ratio) else len(odd) - 2 if min_area_ratio < 0 else int(found.counts))
    assert_same_boxes(objects(odd, min_area_ratio, torch.tensor([[1.1, 0.2, -3], [-0.1, 0.9, 4], [1e-3, -2e-3, 1]])), len(odd))


def test_no_objects_no_room_and_too_little() -> None:
    assert assert_same_boxes(objects([]), 3).counts.tolist() == [0]
    assert assert_same_boxes(boxes_case(0, images=0), 3).boxes.shape == (0, 3, 5)
    assert assert_same_boxes(objects([np.array([[5, 5]])]), 0).boxes.shape == (1, 0, 5)
    case = objects([box(i, i, i + 10, i + 10) for i in range(4)])
    if DEVICE == "cpu":
        with pytest.raises(ValueError, match="augment_boxes: capacity must be at least 4, the boxes of a sample, got 2"):
            augment_boxes(*moved(case), 2, backend="triton")
    else:  # where nothing is read, the count tells
        found = augment_boxes(*moved(case), 2, backend="triton")
        assert found.counts.tolist() == [4]
        assert found.boxes[0, :, 0].tolist() == [0, 1]


def test_what_reaches_beyond_is_refused_where_it_can_be_read() -> None:
    if DEVICE != "cpu":
        pytest.skip("nothing is read on a device")
    boxes = objects([box(1, 1, 9, 9)])
    with pytest.raises(ValueError, match="augment_boxes: ends must be"):
        augment_boxes(*boxes._replace(points=boxes.points[:-1]), 1, backend="triton")


def test_the_registration_compiles() -> None:
    boxes = moved(objects([box(1, 1, 9, 9)]))

    def run(points: Tensor) -> tuple[Tensor, ...]:
        return tuple(augment_boxes(points, *boxes[1:], 3, backend="triton"))

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(compiled(boxes.points), run(boxes.points), strict=True))


@needs_gpu
def test_captured_in_a_graph_without_a_synchronization() -> None:
    case = moved(boxes_case(7, images=3, most=40))
    assert_captured_alike(lambda: tuple(augment_boxes(*case, 80, backend="triton")))
