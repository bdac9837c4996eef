"""The assigner: the reference against the definition written as loops, every backend against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tests.backend_checks import BackendChecks
from tests.support import assign_case, grid_anchors, grid_strides
from tests.tiers import BY_DAY, examples
from tests.tolerances import FLOAT64_LOOPS
from yolov9k.ops import AssignOptions, available, task_aligned_assign

BACKENDS = [name for name in available("task_aligned_assign") if name != "reference"]
Case = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def ciou(a: list[float], b: list[float]) -> float:
    """Complete IoU of a ground-truth box and a prediction (arXiv 2005.03572, eq. 10), one number at a time."""
    eps = 1e-7
    wa, ha, wb, hb = a[2] - a[0], a[3] - a[1] + eps, b[2] - b[0], b[3] - b[1] + eps
    overlap = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    iou = overlap / (wa * ha + wb * hb - overlap + eps)
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2 + eps
    distance = ((b[0] + b[2] - a[0] - a[2]) ** 2 + (b[1] + b[3] - a[1] - a[3]) ** 2) / 4
    aspect = 4 / math.pi**2 * (math.atan(wb / hb) - math.atan(wa / ha)) ** 2
    return iou - distance / diagonal - aspect**2 / (aspect - iou + 1 + eps)


def grown(box: list[float], small: float, side: float) -> list[float]:
    """A box whose sides below `small` are `side` long, about its center."""
    low, high = list(box[:2]), list(box[2:])
    for axis in range(2):
        if high[axis] - low[axis] < small:
            center = (low[axis] + high[axis]) / 2
            low[axis], high[axis] = center - side / 2, center + side / 2
    return low + high


def loops(
    case: Case,
    topk: int,
    alpha: float,
    beta: float,
    mask_conflicts: bool,
    small: float,
    side: float,
    limits: list[float] | None = None,
) -> tuple[list[list[int]], list[list[float]]]:
    """The definition (TOOD, arXiv 2108.07755, section 3.2), as loops over single numbers."""
    scores, boxes, anchors, labels, gt_boxes, mask = (tensor.tolist() for tensor in case)
    index, weights = [], []
    for p, predicted, classes, gts, real in zip(scores, boxes, labels, gt_boxes, mask, strict=True):
        rows = [g for g in range(len(gts)) if real[g]]
        region = {g: grown(gts[g], small, side) for g in rows}
        apart = {
            g: [(x - region[g][0], y - region[g][1], region[g][2] - x, region[g][3] - y) for x, y in anchors] for g in rows
        }
        inside = {g: [min(sides) > 1e-9 for sides in apart[g]] for g in rows}
        if limits:
            inside = {
                g: [min(sides) >= 0 and max(sides) <= limit for sides, limit in zip(apart[g], limits, strict=True)]
                for g in rows
            }
        overlap = {g: [max(ciou(gts[g], box), 0.0) for box in predicted] for g in rows}
        metric = {g: [s[classes[g]] ** alpha * u**beta for s, u in zip(p, overlap[g], strict=True)] for g in rows}
        claims: list[list[int]] = [[] for _ in anchors]
        for g in rows:
            ranked = sorted(
                (a for a in range(len(anchors)) if inside[g][a] and metric[g][a] > 0), key=lambda a: (-metric[g][a], a)
            )
            best = max(range(len(anchors)), key=lambda a: (metric[g][a], -a))
            alone = [best] if limits and not ranked and metric[g][best] > 0 else []
            for a in [*ranked[:topk], *alone]:
                claims[a].append(g)
        owners = [-1] * len(anchors)
        for a, claimants in enumerate(claims):
            rivals = claimants if limits else [g for g in rows if inside[g][a]] if mask_conflicts else rows
            if claimants:
                owners[a] = claimants[0] if len(claimants) == 1 else max(rivals, key=lambda g: (overlap[g][a], -g))
        mine = {g: [a for a, owner in enumerate(owners) if owner == g] for g in rows}
        highest = {
            g: (max((metric[g][a] for a in own), default=0), max((overlap[g][a] for a in own), default=0))
            for g, own in mine.items()
        }
        index.append(owners)
        weights.append([metric[g][a] * highest[g][1] / (highest[g][0] + 1e-9) if g >= 0 else 0.0 for a, g in enumerate(owners)])
    return index, weights


@settings(deadline=None, max_examples=examples(25), derandomize=BY_DAY)
@given(
    st.integers(0, 2**31), st.integers(1, 2), st.integers(0, 9), st.integers(1, 3), st.sampled_from([1, 3, 10]),
    st.sampled_from([(0.5, 6.0), (1.0, 2.0), (0.0, 1.5)]), st.booleans(),
    st.sampled_from([(0.0, 0.0), (8.0, 16.0), (20.0, 4.0)]), st.sampled_from([0.0, 0.5, 2.0, 14.99]),
)  # fmt: skip
def test_reference_is_the_definition(
    seed: int, images: int, boxes: int, classes: int, topk: int, powers: tuple[float, float], mask_conflicts: bool,
    small: tuple[float, float], reach: float,
) -> None:  # fmt: skip
    case: Any = assign_case(seed, images, boxes, 64, classes, torch.float64)
    options = AssignOptions(topk, *powers, mask_conflicts, *small, reach)
    found = task_aligned_assign(*case, backend="reference", options=options, strides=grid_strides(64))
    limits = (grid_strides(64) * reach).tolist() if reach else None
    index, weights = loops(case, topk, *powers, mask_conflicts, *small, limits)
    assert found.gt_index.tolist() == index
    torch.testing.assert_close(found.weight, torch.tensor(weights, dtype=torch.float64).view_as(found.weight), **FLOAT64_LOOPS)


def assert_same(case: Case, **options: Any) -> None:
    """Every backend equals the reference to the bit."""
    wanted = task_aligned_assign(*case, **options, backend="reference")
    for backend in BACKENDS:
        found = task_aligned_assign(
            *(part.to("cuda" if backend == "cuda" else "cpu") for part in case),
            **{
                key: value.to("cuda") if backend == "cuda" and isinstance(value, Tensor) else value
                for key, value in options.items()
            },
            backend=backend,
        )
        assert torch.equal(found.gt_index.cpu(), wanted.gt_index)
        torch.testing.assert_close(found.weight.cpu(), wanted.weight, rtol=0, atol=0)


@settings(deadline=None, max_examples=examples(60), derandomize=BY_DAY)
@given(
    st.integers(0, 2**31), st.integers(0, 3), st.sampled_from([0, 1, 2, 63, 64, 65]), st.sampled_from([32, 64, 96]),
    st.sampled_from([1, 2, 80]), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.sampled_from([1, 10, 700]),
    st.booleans(), st.booleans(), st.sampled_from([(0.0, 0.0), (12.0, 16.0)]), st.sampled_from([0.0, 0.5, 2.0, 14.99]),
)  # fmt: skip
def test_backends_equal_the_reference(
    seed: int, images: int, boxes: int, size: int, classes: int, dtype: torch.dtype, topk: int, logits: bool, mask: bool,
    small: tuple[float, float], reach: float,
) -> None:  # fmt: skip
    options = AssignOptions(topk, mask_conflicts=mask, small_side=small[0], grown_side=small[1], reach=reach)
    case = assign_case(seed, images, boxes, size, classes, dtype)
    assert_same(case, logits=logits, options=options, strides=grid_strides(size))


@pytest.mark.parametrize(
    ("boxes", "classes", "size"), [(1000, 3, 160), (20_000, 2, 64), (20, 1203, 160), (5, 2, 2816)], ids=str
)
def test_many_boxes_many_classes_and_eight_megapixels(boxes: int, classes: int, size: int) -> None:
    assert_same(assign_case(0, 1, boxes, size, classes))


def test_boxes_on_anchor_centers_do_not_contain_them() -> None:
    anchors = grid_anchors(64)
    edge = torch.tensor([[[4.0, 4.0, 12.0, 12.0]]])  # its corners are anchors
    case = (torch.ones(1, len(anchors), 1), edge.expand(1, len(anchors), 4), anchors, torch.zeros(1, 1), edge, torch.ones(1, 1))
    found = task_aligned_assign(*case)
    assert (found.gt_index >= 0).sum() == 1  # the one at stride 16, center (8, 8)
    assert_same(case)


def test_ties_go_to_the_lowest_anchor_and_the_lowest_box() -> None:
    anchors = grid_anchors(64)
    gt_boxes = torch.tensor([0.0, 0, 64, 64]).expand(1, 3, 4)
    case = (
        torch.full((1, len(anchors), 2), 0.5),
        gt_boxes[:, :1].expand(1, len(anchors), 4),
        anchors,
        torch.zeros(1, 3),
        gt_boxes,
        torch.ones(1, 3),
    )
    found = task_aligned_assign(*case, topk=5)
    assert found.gt_index[0].tolist() == [0] * 5 + [-1] * (len(anchors) - 5)
    assert_same(case, topk=5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -5.0])
@pytest.mark.parametrize("part", ["scores", "boxes", "gt_boxes"])
@pytest.mark.parametrize("powers", [(0.5, 6.0), (0.0, 0.0), (1.0, 2.5)])
def test_what_is_not_finite_is_never_chosen(part: str, value: float, powers: tuple[float, float]) -> None:
    case = assign_case(3, 2, 7, 64, 2)
    spoilt = dict(zip(("scores", "boxes", "anchors", "gt_labels", "gt_boxes", "gt_mask"), case, strict=True))
    flat = spoilt[part].view(-1)
    flat[:: 5 if part != "gt_boxes" else 9] = value
    found = task_aligned_assign(*case, alpha=powers[0], beta=powers[1])
    assert found.weight.isfinite().all()
    if not math.isfinite(value) and part == "boxes":
        nonfinite = ~case[1].isfinite().all(-1)
        assert (found.weight[nonfinite] == 0).all()
    if not math.isfinite(value) and part == "gt_boxes":
        lost = (~case[4].isfinite().all(-1)).nonzero().tolist()
        assert all((found.gt_index[image] != box).all() for image, box in lost)
    assert_same(case, alpha=powers[0], beta=powers[1])


def test_zero_area_and_inverted_boxes_claim_nothing() -> None:
    case = assign_case(4, 1, 3, 64, 2)
    case[4][0, 0, 2:] = case[4][0, 0, :2]
    case[4][0, 1] = case[4][0, 1].flip(0)
    assert not torch.isin(task_aligned_assign(*case).gt_index, torch.tensor([0, 1])).any()
    assert_same(case)


def test_masked_rows_claim_nothing_wherever_they_stand() -> None:
    case = assign_case(5, 1, 6, 64, 2)
    mask = torch.tensor([[True, False, True, False, False, True]])
    kept = mask[0].nonzero()[:, 0]
    whole = task_aligned_assign(*case[:5], mask)
    alone = task_aligned_assign(*case[:3], case[3][:, kept], case[4][:, kept], mask[:, kept])
    assert torch.equal(whole.gt_index, torch.where(alone.gt_index >= 0, kept[alone.gt_index.clamp(min=0)], -1))
    assert torch.equal(whole.weight, alone.weight)


def test_anchors_may_come_in_any_order() -> None:
    case = assign_case(6, 2, 5, 64, 2)
    order = torch.randperm(len(case[2]), generator=torch.Generator().manual_seed(0))
    plain = task_aligned_assign(*case)
    mixed = task_aligned_assign(case[0][:, order], case[1][:, order], case[2][order], *case[3:])
    assert torch.equal(mixed.gt_index, plain.gt_index[:, order])
    assert torch.equal(mixed.weight, plain.weight[:, order])


def test_strides_and_kinds_of_labels_change_nothing() -> None:
    case = assign_case(7, 2, 5, 64, 3)
    strange = (
        case[0].transpose(1, 2).contiguous().transpose(1, 2), case[1].flip(-1).flip(-1), case[2].T.contiguous().T,
        case[3].double(), case[4].transpose(0, 1).contiguous().transpose(0, 1), case[5].int() * 7,
    )  # fmt: skip
    for backend in available("task_aligned_assign"):
        if backend != "cuda":
            plain, other = (task_aligned_assign(*some, backend=backend) for some in (case, strange))
            assert torch.equal(plain.gt_index, other.gt_index)
            assert torch.equal(plain.weight, other.weight)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("boxes", [0, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_float32_for_every_dtype_of_the_scores(dtype: torch.dtype, boxes: int, backend: str) -> None:
    """Rounded to the scores' 16 bits they would cost the loss most of their digits."""
    device = "cuda" if backend == "cuda" else "cpu"
    case = [part.to(device) for part in assign_case(12, 2, boxes, 64, 2, dtype)]
    index, weight, weight_sum = operator(*case, 10, 0.5, 6.0, False, False, 0.0, 0.0, backend)
    assert (index.dtype, weight.dtype, weight_sum.dtype) == (torch.int64, torch.float32, torch.float32)
    assert torch.equal(weight_sum, weight.double().sum(1).float())
    if boxes and dtype != torch.float32:
        assert not torch.equal(weight.to(dtype).float(), weight)
    found = task_aligned_assign(*(part.float() for part in case), backend=backend)
    assert torch.equal(found.gt_index, index)
    assert torch.equal(found.weight, weight)


def test_a_box_that_no_anchor_reaches_takes_its_best_anchor_and_edges_count() -> None:
    anchors = grid_anchors(64)
    gt_boxes = torch.tensor([[[4.0, 4.0, 12.0, 12.0], [21.0, 21.0, 23.0, 23.0]]])  # corners on anchors; between anchors
    case = (torch.ones(1, len(anchors), 1), gt_boxes[:, :1].repeat(1, len(anchors), 1), anchors, torch.zeros(1, 2), gt_boxes)
    case[1][0, 20] = gt_boxes[0, 1]
    options = AssignOptions(reach=14.99)
    found = task_aligned_assign(*case, torch.ones(1, 2), options=options, strides=grid_strides(64)).gt_index[0]
    inside = ((anchors >= 4) & (anchors <= 12)).all(-1)
    assert found[inside].tolist() == [0] * 5
    assert (found == 1).nonzero().flatten().tolist() == [20]
    short = task_aligned_assign(*case, torch.ones(1, 2), options=AssignOptions(reach=0.99), strides=grid_strides(64)).gt_index[
        0
    ]
    assert (short == 0).nonzero().flatten().tolist() == [len(anchors) - 20]  # of stride 16, in the box's middle
    assert_same((*case, torch.ones(1, 2)), options=options, strides=grid_strides(64))
    with pytest.raises(ValueError, match=r"task_aligned_assign: strides must be given where options\.reach is"):
        task_aligned_assign(*case, torch.ones(1, 2), options=options)
    with pytest.raises(ValueError, match=r"task_aligned_assign: strides must have shape \[84\], got \[3\]"):
        task_aligned_assign(*case, torch.ones(1, 2), options=options, strides=torch.ones(3))


def test_options_in_one_object_are_those_given_one_by_one() -> None:
    case = assign_case(13, 2, 9, 64, 2)
    wanted = task_aligned_assign(*case, 3, 1.0, 2.0, mask_conflicts=True)
    found = task_aligned_assign(*case, options=AssignOptions(3, 1.0, 2.0, mask_conflicts=True))
    assert torch.equal(found.gt_index, wanted.gt_index)
    assert torch.equal(found.weight, wanted.weight)
    with pytest.raises(ValueError, match="task_aligned_assign: options must be given in place of its fields"):
        task_aligned_assign(*case, topk=3, options=AssignOptions(4))


def test_float64_is_the_references_alone() -> None:
    case = assign_case(8, 1, 3, 64, 2, torch.float64)
    assert task_aligned_assign(*case).weight.dtype == torch.float64
    assert task_aligned_assign(case[0].float(), *case[1:]).weight.dtype == torch.float64  # the boxes are
    with pytest.raises(ValueError, match="task_aligned_assign: backend 'cpu' takes float32"):
        task_aligned_assign(*case, backend="cpu")


def operator(*arguments: Any) -> Any:
    return torch.ops.yolov9k.task_aligned_assign(*arguments)


@pytest.mark.parametrize("backend", [name for name in available("task_aligned_assign") if name != "cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_registration_is_sound(backend: str, dtype: torch.dtype) -> None:
    if backend != "reference" and dtype == torch.float64:
        pytest.skip("the reference alone computes in float64")
    arguments = (*assign_case(9, 2, 4, 64, 2, dtype), 10, 0.5, 6.0, False, False, 0.0, 0.0, backend)
    torch.library.opcheck(torch.ops.yolov9k.task_aligned_assign.default, arguments)
    real = operator(*arguments)
    with FakeTensorMode() as mode:
        fake = operator(*(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments))
    assert [(a.shape, a.dtype) for a in fake] == [(a.shape, a.dtype) for a in real]
    compiled = torch.compile(lambda *case: task_aligned_assign(*case, backend=backend), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*arguments[:6])[0], real[0])


def replace(position: int, change: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    case = list(assign_case(10, 2, 4, 64, 2))
    case[position] = change(case[position])
    return tuple(case)


@pytest.mark.parametrize(
    ("position", "change", "error", "message"),
    [
        (0, lambda t: t[0], ValueError, r"scores must have shape \[\*, \*, \*\], got \[84, 2\]"),
        (0, lambda t: t.long(), TypeError, "scores must be of a floating-point dtype, got torch.int64"),
        (0, lambda t: t[..., :0], ValueError, "scores must be at least one class wide"),
        (1, lambda t: t[:, :5], ValueError, r"boxes must have shape \[2, 84, 4\], got \[2, 5, 4\]"),
        (2, lambda t: t.T, ValueError, r"anchors must have shape \[84, 2\], got \[2, 84\]"),
        (3, lambda t: t[:, :1], ValueError, r"gt_labels must have shape \[2, 4\], got \[2, 1\]"),
        (4, lambda t: t.to("meta"), ValueError, "gt_boxes must be on cpu, got meta"),
        (5, lambda t: t[..., None], ValueError, r"gt_mask must have shape \[2, 4\], got \[2, 4, 1\]"),
    ],
)
def test_wrong_tensors_are_named(position: int, change: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"task_aligned_assign: {message}"):
        task_aligned_assign(*replace(position, change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": 0}, "topk must be from 1 to 1024, got 0"),
        ({"topk": 1025}, "topk must be from 1 to 1024, got 1025"),
        ({"alpha": -1.0}, "alpha must be at least 0, got -1.0"),
        ({"beta": math.nan}, "beta must be at least 0, got nan"),
        ({"backend": "tpu"}, "tpu"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_aligned_assign(*assign_case(11, 1, 2, 64, 2), **options)


def test_a_reach_below_zero_is_named() -> None:
    with pytest.raises(ValueError, match=r"reach must be at least 0, got -1\.0"):
        AssignOptions(reach=-1.0)


class TestBackends(BackendChecks):
    operator = "task_aligned_assign"

    def call(self, backend: str) -> Tensor:
        boxes, one = torch.tensor([[[0.0, 0.0, 9.0, 9.0]]]), torch.ones(1, 1)
        return task_aligned_assign(one[..., None], boxes, torch.ones(1, 2), one * 0, boxes, one, backend=backend).weight
