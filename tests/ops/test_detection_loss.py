"""The loss: by hand in numpy, its gradients, branches, gains and targets, precisions, registration, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.backend_checks import BackendChecks
from tests.support import shared
from tests.tiers import BY_DAY, examples
from tests.tolerances import BFLOAT16_MAPS, FLOAT64_LOOPS, LOSS_GRADIENT, LOSS_VALUE
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
from yolov9k.ops.reference import boxes as boxes_module
from yolov9k.ops.reference import detection_loss as reference
from yolov9k.ops.reference import task_aligned_assign as reference_assign
from yolov9k.ops.reference.dfl_decode import make_anchors

BINS = 4
CLASSES = 2
STRIDES = (8, 16)
Branch = list[Tensor]


def branch(seed: int, batch: int = 2, classes: int = CLASSES, side: int = 4, dtype: torch.dtype = torch.float64) -> Branch:
    """Raw maps of two levels of an image of 8 * side pixels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 4 * BINS + classes)
    return [torch.randn(*shape, n, n, generator=generator, dtype=torch.float64).to(dtype) for n in (side, side // 2)]


def loss(**changes: Any) -> DetectionLoss:
    return DetectionLoss(CLASSES, STRIDES, BINS, **changes)


ROWS = torch.tensor(
    [[0, 1, 0.4, 0.5, 0.6, 0.7], [1, 0, 0.6, 0.4, 0.5, 0.5], [0, 0, 0.7, 0.6, 0.5, 0.6]], dtype=torch.float64
)  # image, class, cx, cy, w, h


def operands(rows: Tensor = ROWS, batch: int = 2, side: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, boxes in pixels and counts, as the operator takes them."""
    padded, counts = pad_targets(rows, batch)
    labels, pixels = DetectionLoss._to_pixels(padded, 8 * side, 8 * side)
    return labels, pixels, counts


# --- the definition by hand: one image, one box, one level ---------------------------------------------------------


def ciou_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Complete IoU of two boxes (arXiv 2005.03572, eq. 10)."""
    eps = 1e-7
    wa, ha, wb, hb = a[2] - a[0], a[3] - a[1] + eps, b[2] - b[0], b[3] - b[1] + eps
    overlap = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    iou = overlap / (wa * ha + wb * hb - overlap + eps)
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2 + eps
    distance = ((b[0] + b[2] - a[0] - a[2]) ** 2 + (b[1] + b[3] - a[1] - a[3]) ** 2) / 4
    aspect = 4 / math.pi**2 * (math.atan(wb / hb) - math.atan(wa / ha)) ** 2
    return float(iou - distance / diagonal - aspect**2 / (aspect - iou + 1 + eps))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def by_hand(
    level: np.ndarray, label: int, gt_box: np.ndarray, topk: int, alpha: float, beta: float, smoothing: float, pos_weight: float
) -> np.ndarray:
    """Box, class and dfl loss of one box in one image's one level of stride 8 by its definition, an anchor at a time."""
    _, height, width = level.shape
    logits = level.reshape(len(level), -1).T
    points = [(x + 0.5, y + 0.5) for y in range(height) for x in range(width)]
    shares = softmax(logits[:, : 4 * BINS].reshape(-1, 4, BINS))
    sides = (shares * np.arange(BINS)).sum(-1)
    gt_box = gt_box / 8
    found = [np.array([x - s[0], y - s[1], x + s[2], y + s[3]]) for (x, y), s in zip(points, sides, strict=True)]
    probability = 1 / (1 + np.exp(-logits[:, 4 * BINS :]))
    in_pixels = np.array([max(ciou_by_hand(gt_box * 8, box * 8), 0.0) for box in found])
    inside = np.array([min(x - gt_box[0], y - gt_box[1], gt_box[2] - x, gt_box[3] - y) > 0 for x, y in points])
    metric = probability[:, label] ** alpha * in_pixels**beta
    chosen = [a for a in np.argsort(-metric * inside, kind="stable")[:topk] if metric[a] * inside[a] > 0]
    weight = np.zeros(len(points))
    weight[chosen] = metric[chosen] * in_pixels[chosen].max() / (metric[chosen].max() + 1e-9)
    targets = np.zeros_like(probability)
    targets[:, label] = weight
    norm = max(weight.sum(), 1.0)
    smooth = targets * (1 - smoothing) + smoothing / 2
    cls = -(pos_weight * smooth * np.log(probability) + (1 - smooth) * np.log(1 - probability)).sum() / norm
    box = sum(weight[a] * (1 - ciou_by_hand(found[a], gt_box)) for a in chosen) / norm
    dfl = 0.0
    for a in chosen:
        x, y = points[a]
        aim = np.clip([x - gt_box[0], y - gt_box[1], gt_box[2] - x, gt_box[3] - y], 0, BINS - 1.01)
        low = aim.astype(int)
        left, right = (np.log(shares[a, range(4), low + step]) for step in (0, 1))
        dfl += weight[a] * -((low + 1 - aim) * left + (aim - low) * right).mean() / norm
    return np.array([box, cls, dfl])


@settings(deadline=None, max_examples=examples(40), derandomize=BY_DAY)
@given(
    st.integers(0, 2**31), st.integers(1, 12), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([6.0, 1.0, 0.5]),
    st.sampled_from([0.0, 0.1]), st.sampled_from([1.0, 2.5]), st.integers(0, CLASSES - 1),
    st.sampled_from([12, 20, 34]),
)  # fmt: skip
def test_one_box_equals_the_definition_by_hand(
    seed: int, topk: int, alpha: float, beta: float, smoothing: float, pos_weight: float, label: int, size: int
) -> None:
    """The largest box reaches beyond the bins' range: the distances are clamped there."""
    level = branch(seed, batch=1)[0]
    corner = torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 8
    gt_box = torch.cat((corner, corner + size))[None, None]
    found = detection_loss(
        [level], torch.tensor([[label]]), gt_box, torch.tensor([1]), [8], BINS, topk, alpha, beta, smoothing, pos_weight
    )
    wanted = by_hand(level[0].numpy(), label, gt_box[0, 0].numpy(), topk, alpha, beta, smoothing, pos_weight)
    torch.testing.assert_close(found, torch.from_numpy(wanted), **FLOAT64_LOOPS)


def test_smoothed_empty_image_by_hand() -> None:
    """No box: the class loss alone, every target 0.5 * smoothing, divided by 1."""
    level = torch.zeros(1, 4 * BINS + 1, 1, 1, dtype=torch.float64)
    level[0, -1] = 2.0
    criterion = DetectionLoss(1, (8,), BINS, label_smoothing=0.2)
    total, parts = criterion([[level]], torch.zeros(0, 6, dtype=torch.float64))
    probability = 1 / (1 + math.exp(-2.0))
    wanted = 0.5 * -(0.1 * math.log(probability) + 0.9 * math.log(1 - probability))
    torch.testing.assert_close(parts, torch.tensor([0.0, wanted, 0.0], dtype=torch.float64), **FLOAT64_LOOPS)
    torch.testing.assert_close(total, parts.sum(), **FLOAT64_LOOPS)


# --- gradients --------------------------------------------------------------------------------------------------------


def frozen_ciou(weights: list[Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """CIoU whose aspect weight is a constant of the first call, as the paper holds it for the gradient."""

    def ciou(a: Tensor, b: Tensor) -> Tensor:
        eps = boxes_module.EPS
        wa, ha, wb, hb = a[..., 2] - a[..., 0], a[..., 3] - a[..., 1] + eps, b[..., 2] - b[..., 0], b[..., 3] - b[..., 1] + eps
        overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
        iou = overlap / (wa * ha + wb * hb - overlap + eps)
        hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
        distance = (b[..., :2] + b[..., 2:] - a[..., :2] - a[..., 2:]).square().sum(-1) / 4
        aspect = 4 / math.pi**2 * ((wb / hb).atan() - (wa / ha).atan()).square()
        if not weights:
            weights.append((aspect / (aspect - iou + 1 + eps)).detach())
        return iou - distance / (hull.square().sum(-1) + eps) - weights[0] * aspect

    return ciou


def test_reference_has_the_numeric_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Target scores and CIoU's aspect weight are constants of the gradient: both are held while the inputs are shaken."""
    maps = [level.requires_grad_() for level in branch(0, side=2)]
    labels, boxes, counts = operands(side=2)

    options = LossOptions(BINS, AssignOptions(3, 0.5, 1.0), 0.1, 1.5)
    held: list[Any] = []

    def assign(*arguments: Any) -> Any:
        held[:] = held or [reference_assign.task_aligned_assign(*arguments)]
        return held[0]

    def run(*levels: Tensor) -> Tensor:
        return reference.detection_loss(levels, labels, boxes, counts, STRIDES, options, assign)

    cotangent = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    free = reference.detection_loss(maps, labels, boxes, counts, STRIDES, options)
    wanted = torch.autograd.grad(free, maps, cotangent)
    monkeypatch.setattr(reference, "box_ciou", frozen_ciou([]))
    found = torch.autograd.grad(run(*maps), maps, cotangent)
    assert (held[0][1] > 0).sum() > 2
    for ours, want in zip(wanted, found, strict=True):
        torch.testing.assert_close(ours, want, **FLOAT64_LOOPS)
    assert torch.autograd.gradcheck(run, maps)


def test_only_assigned_anchors_get_a_box_gradient() -> None:
    maps = [level.requires_grad_() for level in branch(1)]
    labels, boxes, counts = operands()
    parts = detection_loss(maps, labels, boxes, counts, STRIDES, BINS, 2)
    gradients = torch.autograd.grad(parts[0] + parts[2], maps)
    touched = torch.cat([gradient[:, : 4 * BINS].abs().sum(1).flatten(1) for gradient in gradients], 1) > 0
    assert touched.sum(1).tolist() == [4, 2]  # two anchors a box
    assert not any(gradient[:, 4 * BINS :].any() for gradient in gradients)


# --- branches, gains, targets -----------------------------------------------------------------------------------------


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


# --- precisions, faithfulness -----------------------------------------------------------------------------------------


def test_bfloat16_maps_are_computed_in_float32() -> None:
    maps = [level.requires_grad_() for level in branch(0, dtype=torch.bfloat16)]
    twins = [level.detach().float().requires_grad_() for level in maps]
    (total, parts), (wanted, _) = loss()([maps], ROWS.float()), loss()([twins], ROWS.float())
    assert total.dtype == parts.dtype == torch.float32
    assert torch.equal(total, wanted)
    for ours, want in zip(torch.autograd.grad(total, maps), torch.autograd.grad(wanted, twins), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), want, **BFLOAT16_MAPS)


def test_extreme_logits_stay_finite() -> None:
    maps = [(level * 1e3).requires_grad_() for level in branch(0, dtype=torch.float32)]
    total, _ = loss()([maps], ROWS.float())
    assert total.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, maps))


def published_candidates(metric: Tensor, inside_box: Tensor, topk: int) -> Tensor:
    """What the published code selects: torch's top-k, its places beyond the last metric above 0 filled in any order."""
    chosen = (metric * inside_box).topk(topk, -1).indices
    return torch.zeros_like(inside_box).scatter_(-1, chosen, True) & inside_box


def test_the_order_of_ties_is_the_crowded_fixtures_only_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = np.load(shared("golden/ops/loss_crowded.npz"))
    names = ("aux", "main")
    branches = [[torch.from_numpy(golden[f"{name}_level{i}"]).requires_grad_() for i in range(3)] for name in names]
    criterion, targets = DetectionLoss(int(golden["nc"]), backend="reference"), torch.from_numpy(golden["targets"])
    wanted = float(golden["dual_loss"])
    assert criterion(branches, targets)[0].item() != pytest.approx(wanted, rel=LOSS_VALUE)
    monkeypatch.setattr(reference_assign, "select_candidates", published_candidates)
    total, parts = criterion(branches, targets)
    assert total.item() == pytest.approx(wanted, rel=LOSS_VALUE)
    torch.testing.assert_close(parts, torch.from_numpy(golden["dual_items_box_cls_dfl"]), rtol=LOSS_VALUE, atol=0)
    total.backward()
    for name, levels in zip(names, branches, strict=True):
        for i, level in enumerate(levels):
            gradient = torch.from_numpy(golden[f"dual_grad_{name}_level{i}"])
            assert level.grad is not None
            assert (level.grad - gradient).norm() <= LOSS_GRADIENT * gradient.norm()


@pytest.mark.parametrize("case", ["dense", "sparse_empty_image", "tiny_boxes", "no_targets"])
def test_one_branch_equals_the_published_single_loss(case: str) -> None:
    golden = np.load(shared(f"golden/ops/loss_{case}.npz"))
    maps = [torch.from_numpy(golden[f"main_level{i}"]).requires_grad_() for i in range(3)]
    total, parts = DetectionLoss(int(golden["nc"]))([maps], torch.from_numpy(golden["targets"]))
    assert total.item() == pytest.approx(float(golden["single_loss"]), rel=LOSS_VALUE)
    torch.testing.assert_close(parts, torch.from_numpy(golden["single_items_box_cls_dfl"]), rtol=LOSS_VALUE, atol=1e-9)
    total.backward()
    for i, level in enumerate(maps):
        gradient = torch.from_numpy(golden[f"single_grad_main_level{i}"])
        assert level.grad is not None
        assert (level.grad - gradient).norm() <= LOSS_GRADIENT * gradient.norm()


# --- registration -----------------------------------------------------------------------------------------------------


@pytest.mark.compile
def test_the_registration_is_sound() -> None:
    maps = [level.requires_grad_() for level in branch(0, dtype=torch.float32)]
    labels, boxes, counts = operands(ROWS.float())
    arguments = (maps, labels, boxes, counts, list(STRIDES), BINS, 10, 0.5, 6.0, False, 0.1, 1.5, "auto")
    torch.library.opcheck(torch.ops.yolov9k.detection_loss.default, arguments)


@pytest.mark.compile
@pytest.mark.parametrize("boxes", [3, 0])
def test_compiles_into_one_graph_with_the_same_results(boxes: int) -> None:
    maps = [level.requires_grad_() for level in branch(0)]
    labels, pixels, counts = operands(ROWS[:boxes])

    def run(*levels: Tensor) -> Tensor:
        return detection_loss(levels, labels, pixels, counts, STRIDES, BINS)

    torch._dynamo.reset()
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    found, wanted = compiled(*maps), run(*maps)
    torch.testing.assert_close(found, wanted, **FLOAT64_LOOPS)
    for ours, want in zip(torch.autograd.grad(found.sum(), maps), torch.autograd.grad(wanted.sum(), maps), strict=True):
        torch.testing.assert_close(ours, want, **FLOAT64_LOOPS)


# --- errors -----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"maps": [level.int() for level in branch(0)]}, TypeError, r"maps\[0\] must be of a floating-point dtype"),
        ({"maps": [branch(0)[0], branch(0, batch=1)[1]]}, ValueError, r"maps\[1\] must have shape \[2, 18, \*, \*\]"),
        ({"maps": []}, ValueError, "strides must be 0 values"),
        ({"reg_max": 5}, ValueError, r"maps\[0\] must be more than 4\*reg_max=20 channels wide, got 18"),
        ({"gt_boxes": torch.zeros(2, 2, 5)}, ValueError, r"gt_boxes must have shape \[2, \*, 4\], got \[2, 2, 5\]"),
        ({"gt_labels": torch.zeros(2, 3)}, ValueError, r"gt_labels must have shape \[2, 2\], got \[2, 3\]"),
        ({"counts": torch.zeros(3)}, ValueError, r"counts must have shape \[2\], got \[3\]"),
        ({"counts": torch.zeros(2, device="meta")}, ValueError, "counts must be on cpu, got meta"),
        ({"reg_max": 1}, ValueError, "reg_max must be at least 2, got 1"),
        ({"label_smoothing": 1.0}, ValueError, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"label_smoothing": math.nan}, ValueError, r"label_smoothing must be in \[0, 1\), got nan"),
        ({"pos_weight": -1.0}, ValueError, "pos_weight must be at least 0, got -1.0"),
        ({"backend": "tpu"}, ValueError, "backend must be one of auto"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    labels, boxes, counts = operands()
    given = {"maps": branch(0), "gt_labels": labels, "gt_boxes": boxes, "counts": counts, "strides": STRIDES, "reg_max": BINS}
    with pytest.raises(error, match=f"detection_loss: {message}"):
        detection_loss(**{**given, **changes})


@pytest.mark.parametrize("label", [CLASSES, 99, -1])
def test_a_class_that_does_not_exist_is_refused(label: int) -> None:
    rows = ROWS.clone()
    rows[0, 1] = label
    with pytest.raises((RuntimeError, IndexError), match="index"):
        loss()([branch(0)], rows)


class TestBackends(BackendChecks):
    operator = "detection_loss"

    def call(self, backend: str) -> Tensor:
        maps = [torch.zeros(1, 66, 2, 2)]
        return detection_loss(maps, torch.zeros(1, 1), torch.ones(1, 1, 4), torch.zeros(1), [8], backend=backend)
