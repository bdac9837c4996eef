"""The loss of all branches: gains, the weight of auxiliary ones, targets, options, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.loss_cases import BINS, CLASSES, ROWS, STRIDES, Branch, branch, loss, operands
from tests.tiers import BY_DAY, examples
from tests.tolerances import FLOAT64_LOOPS
from yolov9k.losses import DetectionLoss
from yolov9k.losses.detection import pad_targets
from yolov9k.ops import (
    AssignOptions,
    LossOptions,
    detection_loss,
    detection_loss_and_gradient,
    dfl_decode,
    task_aligned_assign,
)
from yolov9k.ops.reference import detection_loss as reference
from yolov9k.ops.reference.dfl_decode import make_anchors


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_part_is_the_main_branch_and_a_quarter_of_each_other(count: int) -> None:
    branches = [branch(seed) for seed in range(count)]
    labels, boxes, counts = operands()
    each = [detection_loss(maps, labels, boxes, counts, STRIDES, BINS) for maps in branches]
    wanted = (each[-1] + 0.25 * sum(each[:-1])) * torch.tensor([7.5, 0.5, 1.5])
    total, parts = loss()(branches, ROWS)
    torch.testing.assert_close(parts, wanted, **FLOAT64_LOOPS)
    torch.testing.assert_close(total, wanted.sum() * 2, **FLOAT64_LOOPS)


def test_gains_and_the_auxiliary_weight_are_obeyed() -> None:
    aux, main = branch(0), branch(1)
    plain = [loss(box=1.0, cls=1.0, dfl=1.0)([maps], ROWS)[1] for maps in (aux, main)]
    _, parts = loss(box=2.0, cls=3.0, dfl=0.0, auxiliary=0.5)([aux, main], ROWS)
    wanted = (plain[1] + 0.5 * plain[0]) * torch.tensor([2.0, 3.0, 0.0])
    torch.testing.assert_close(parts, wanted, **FLOAT64_LOOPS)


def test_options_reach_the_operator() -> None:
    options: dict[str, Any] = {"topk": 1, "alpha": 1.0, "beta": 2.0, "label_smoothing": 0.2, "pos_weight": 3.0}
    labels, boxes, counts = operands()
    base = detection_loss(branch(0), labels, boxes, counts, STRIDES, BINS)
    for name, value in options.items():
        alone = detection_loss(branch(0), labels, boxes, counts, STRIDES, BINS, **{name: value})
        assert not torch.allclose(alone, base), name
        _, parts = loss(box=1.0, cls=1.0, dfl=1.0, **{name: value})([branch(0)], ROWS)
        torch.testing.assert_close(parts, alone, **FLOAT64_LOOPS)


def test_options_in_one_object_are_those_given_one_by_one() -> None:
    options = LossOptions(BINS, AssignOptions(2, 1.0, 2.0), label_smoothing=0.2, pos_weight=3.0)
    each: dict[str, Any] = {"topk": 2, "alpha": 1.0, "beta": 2.0, "label_smoothing": 0.2, "pos_weight": 3.0}
    labels, boxes, counts = operands()
    wanted = detection_loss(branch(0), labels, boxes, counts, STRIDES, BINS, **each)
    assert torch.equal(detection_loss(branch(0), labels, boxes, counts, STRIDES, options=options), wanted)
    parts, _ = detection_loss_and_gradient(branch(0), labels, boxes, counts, STRIDES, torch.ones(3), options=options)
    assert torch.equal(parts, wanted)
    criterion = DetectionLoss(CLASSES, STRIDES, box=1.0, cls=1.0, dfl=1.0, options=options)
    assert torch.equal(criterion([branch(0)], ROWS)[1], wanted)
    assert criterion.options == loss(**each).options
    with pytest.raises(ValueError, match="detection_loss: options must be given in place of its fields"):
        detection_loss(branch(0), labels, boxes, counts, STRIDES, BINS, options=options)
    with pytest.raises(ValueError, match="DetectionLoss: options must be given in place of its fields"):
        DetectionLoss(CLASSES, STRIDES, topk=3, options=options)


def test_contested_anchors_are_settled_as_the_options_say() -> None:
    """Two small boxes claim an anchor that a large one beside it overlaps more: the assigner's switch reaches it."""
    sides = torch.tensor([[12.0, 12, 4, 4], [12, 12, 2, 2], [18.5, 12, 12, 24]], dtype=torch.float64) / 32
    rows = torch.cat((torch.zeros(3, 2, dtype=torch.float64), sides), 1)
    labels, boxes, counts = operands(rows, batch=1)
    found = []
    for switch in (False, True):
        options = LossOptions(BINS, AssignOptions(topk=20, beta=0.5, mask_conflicts=switch))
        wanted = reference.detection_loss(branch(3, batch=1), labels, boxes, counts, STRIDES, options)
        found.append(detection_loss(branch(3, batch=1), labels, boxes, counts, STRIDES, options=options))
        torch.testing.assert_close(found[-1], wanted, rtol=0, atol=0)
    assert not torch.allclose(*found)


def test_parts_are_detached_and_total_is_not() -> None:
    maps = [level.requires_grad_() for level in branch(0)]
    total, parts = loss()([maps], ROWS)
    assert total.requires_grad
    assert total.shape == ()
    assert not parts.requires_grad


@settings(deadline=None, max_examples=examples(30), derandomize=BY_DAY)
@given(st.lists(st.integers(0, 2), max_size=7), st.integers(0, 3), st.integers(0, 2**31))
def test_rows_and_padded_targets_are_one(images: list[int], padding: int, seed: int) -> None:
    """Also with more padding than needed, and whatever stands in it."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(len(images), 4, generator=generator, dtype=torch.float64) * 0.5 + 0.2
    rows = torch.cat((torch.tensor(images)[:, None], torch.arange(len(images))[:, None] % CLASSES, boxes), 1)
    padded, counts = pad_targets(rows, 3)
    assert counts.tolist() == [images.count(i) for i in range(3)]
    wider = torch.cat((padded, torch.rand(3, padding, 5, generator=generator, dtype=torch.float64)), 1)
    wanted = loss()([branch(seed, 3)], rows)
    for pair in ((padded, counts), (wider, counts)):
        torch.testing.assert_close(loss()([branch(seed, 3)], pair), wanted, **FLOAT64_LOOPS)


def test_the_order_of_rows_of_different_images_does_not_matter() -> None:
    wanted = loss()([branch(0)], ROWS)
    torch.testing.assert_close(loss()([branch(0)], ROWS[[1, 0, 2]]), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("batch", [1, 2])
def test_no_box_at_all_leaves_the_class_loss_with_finite_gradients(batch: int) -> None:
    maps = [level.requires_grad_() for level in branch(0, batch)]
    total, parts = loss()([maps], ROWS[:0])
    assert parts[0] == parts[2] == 0
    expected = sum(torch.nn.functional.softplus(level[:, 4 * BINS :]).sum() for level in maps) * 0.5 * batch
    torch.testing.assert_close(total, expected, **FLOAT64_LOOPS)
    for gradient in torch.autograd.grad(total, maps):
        assert gradient.isfinite().all()
        assert not gradient[:, : 4 * BINS].any()


def test_padding_alone_equals_no_box_at_all() -> None:
    padded, counts = torch.rand(2, 3, 5, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    torch.testing.assert_close(loss()([branch(0)], (padded, counts)), loss()([branch(0)], ROWS[:0]), **FLOAT64_LOOPS)


def test_an_image_without_boxes_adds_its_class_loss_alone() -> None:
    maps = branch(0)
    rows = ROWS[ROWS[:, 0] == 0]
    labels, boxes, counts = operands(rows)
    both = detection_loss(maps, labels, boxes, counts, STRIDES, BINS)
    first = detection_loss([m[:1] for m in maps], labels[:1], boxes[:1], counts[:1], STRIDES, BINS)
    torch.testing.assert_close(both[[0, 2]], first[[0, 2]], **FLOAT64_LOOPS)
    background = sum(torch.nn.functional.softplus(level[1:, 4 * BINS :]).sum() for level in maps)
    norm = max(sum_of_target_scores(maps, rows), 1.0)
    torch.testing.assert_close(both[1] - first[1], background / norm, **FLOAT64_LOOPS)


def sum_of_target_scores(maps: Branch, rows: Tensor) -> float:
    """What the parts are divided by, unless it is below 1."""
    decoded = dfl_decode(maps, STRIDES, BINS).transpose(1, 2)
    center, half = decoded[..., :2], decoded[..., 2:4] / 2
    points, scales = make_anchors(maps, STRIDES)
    labels, boxes, counts = operands(rows)
    mask = torch.arange(boxes.shape[1]) < counts[:, None]
    predicted = torch.cat((center - half, center + half), -1)
    return float(task_aligned_assign(decoded[..., 4:], predicted, points * scales, labels, boxes, mask).weight.sum())


def test_boxes_in_an_image_that_is_not_square() -> None:
    """Widths scale by the image's width, heights by its height."""
    labels, pixels = DetectionLoss._to_pixels(torch.tensor([[[1, 0.5, 0.25, 0.5, 0.5]]]), 64, 32)
    assert labels.tolist() == [[1.0]]
    assert pixels.tolist() == [[[16.0, 0.0, 48.0, 16.0]]]
    level = branch(0)[0]
    _, parts = DetectionLoss(CLASSES, (8,), BINS, box=1.0, cls=1.0, dfl=1.0)([[level[..., :2]]], ROWS)
    padded, counts = pad_targets(ROWS, 2)
    labels, pixels = DetectionLoss._to_pixels(padded, 16, 32)
    torch.testing.assert_close(parts, detection_loss([level[..., :2]], labels, pixels, counts, [8], BINS), **FLOAT64_LOOPS)


@pytest.mark.parametrize(
    ("branches", "rows", "message"),
    [
        ([], ROWS, "branches must be one, two or three lists of maps, got 0"),
        ([branch(0)] * 4, ROWS, "branches must be one, two or three lists of maps, got 4"),
        ([branch(0, classes=5)], ROWS, "maps must have 18 channels, got 21"),
        ([branch(0, classes=5), branch(0)], ROWS, "maps must have 18 channels, got 21"),
        ([branch(0)], ROWS.index_fill(1, torch.tensor([0]), 2), "image numbers must be in 0..1, got 2..2"),
        ([branch(0)], ROWS.index_fill(1, torch.tensor([0]), -1), "image numbers must be in 0..1, got -1..-1"),
        ([branch(0)[:1]], ROWS, r"strides must be 1 values, got \[8, 16\]"),
        ([branch(0, batch=3), branch(0)], ROWS, r"gt_boxes must have shape \[3, \*, 4\]"),
    ],
)
def test_wrong_branches_and_rows_are_named(branches: list[Branch], rows: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss()(branches, rows)


@pytest.mark.parametrize("label", [CLASSES, 99, -1])
def test_a_class_that_does_not_exist_is_refused(label: int) -> None:
    rows = ROWS.clone()
    rows[0, 1] = label
    with pytest.raises((RuntimeError, IndexError, ValueError), match="index"):
        loss()([branch(0)], rows)
