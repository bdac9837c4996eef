"""The loss operator: by hand in numpy, its gradients, precisions, registration, errors."""

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
from tests.loss_cases import (
    BINS,
    CLASSES,
    ROWS,
    STRIDES,
    branch,
    loss,
    operands,
)
from tests.support import shared
from tests.tiers import BY_DAY, examples
from tests.tolerances import BFLOAT16_MAPS, FLOAT64_LOOPS, LOSS_GRADIENT, LOSS_VALUE
from yolov9k.losses import DetectionLoss
from yolov9k.ops import (
    AssignOptions,
    LossOptions,
    detection_loss,
)
from yolov9k.ops.reference import boxes as boxes_module
from yolov9k.ops.reference import detection_loss as reference
from yolov9k.ops.reference import task_aligned_assign as reference_assign

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

    def assign(*arguments: Any, **limits: Any) -> Any:
        held[:] = held or [reference_assign.task_aligned_assign(*arguments, **limits)]
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
    arguments = (maps, labels, boxes, counts, list(STRIDES), BINS, 10, 0.5, 6.0, False, 0.0, 0.0, 14.99, 0.1, 1.5, "auto")
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


class TestBackends(BackendChecks):
    operator = "detection_loss"

    def call(self, backend: str) -> Tensor:
        maps = [torch.zeros(1, 66, 2, 2)]
        return detection_loss(maps, torch.zeros(1, 1), torch.ones(1, 1, 4), torch.zeros(1), [8], backend=backend)
