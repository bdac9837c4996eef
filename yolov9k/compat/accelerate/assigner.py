"""Task-aligned assigners of other implementations, run by our operator with their own settings (TOOD, arXiv 2108.07755)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from yolov9k.compat.accelerate.swap import Swapped
from yolov9k.ops import AssignOptions, task_aligned_assign

_CLOSE = 1e-4  # of weights between 0 and 1 that two float32 implementations reckon from powers of 6


class AcceleratedAssigner(Swapped):
    """An assigner whose call is our operator; options: its settings as ours."""

    options: AssignOptions
    results: int

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Six tensors, as the original takes them; whatever else it is given, the original runs."""
        if len(arguments) != 6 or named or arguments[4].shape[1] == 0:
            return super().forward(*arguments, **named)  # type: ignore[misc]
        return assigned(*arguments, options=self.options)[: self.results]


@torch.no_grad()
def assigned(
    scores: Tensor, boxes: Tensor, anchors: Tensor, gt_labels: Tensor, gt_boxes: Tensor, gt_mask: Tensor, *,
    options: AssignOptions,
) -> tuple[Tensor, ...]:  # fmt: skip
    """What assigners of this kind return: labels [B, A], boxes [B, A, 4], scores [B, A, nc], foreground [B, A], index [B, A].

    scores [B, A, nc] probabilities; boxes [B, A, 4] and gt_boxes [B, G, 4] xyxy in pixels; anchors [A, 2] in pixels;
    gt_labels, gt_mask [B, G, 1].
    """
    labels = gt_labels.squeeze(-1).long().clamp(min=0)
    index, weight = task_aligned_assign(scores, boxes, anchors, labels, gt_boxes, gt_mask.squeeze(-1), options=options)
    owner = index.clamp(min=0)
    label = labels.gather(1, owner)
    box = gt_boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    target = torch.zeros_like(scores).scatter_(2, label[..., None], weight[..., None].to(scores.dtype))
    return label, box, target, index >= 0, owner


def options_of(assigner: Any) -> tuple[AssignOptions, int] | None:
    """Settings with which our operator gives what this assigner gives, and how many results it has; None for none."""
    try:
        case: Any = _scene(int(getattr(assigner, "num_classes", 0) or getattr(assigner, "nc", 0)))
        theirs = assigner(*case)
        for options in _candidates(assigner):
            if _agree(assigned(*case, options=options), theirs):
                return options, len(theirs)
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError, AssertionError):
        return None
    return None


def _candidates(assigner: Any) -> Iterator[AssignOptions]:
    """Its settings, with each way of settling contests and of growing small boxes."""
    if getattr(assigner, "topk2", None) not in (None, assigner.topk):  # a second choice that ours does not have
        return
    strides = [float(stride) for stride in getattr(assigner, "stride", ())]
    lengths = sorted({*strides, *(2 * stride for stride in strides)})
    sides = [(0.0, 0.0), *itertools.product(lengths, lengths)]
    for contests, (small, grown) in itertools.product((False, True), sides):
        yield AssignOptions(int(assigner.topk), float(assigner.alpha), float(assigner.beta), contests, small, grown)


def _agree(ours: tuple[Tensor, ...], theirs: Any) -> bool:
    """Whether targets are the same wherever an anchor has any weight."""
    if not isinstance(theirs, tuple) or len(theirs) not in (4, 5):
        return False
    label, box, target = theirs[:3]
    if not torch.allclose(ours[2], target.to(ours[2].dtype), rtol=_CLOSE, atol=_CLOSE):
        return False
    some = target.sum(-1) > _CLOSE
    same = torch.equal(ours[0][some], label[some].long()) and torch.equal(ours[1][some], box[some].to(ours[1].dtype))
    return same and bool(theirs[3].bool()[some].all()) and (len(theirs) == 4 or torch.equal(ours[4][some], theirs[4][some]))


def _scene(classes: int) -> tuple[Tensor, ...]:
    """Scores, boxes, anchors, labels, boxes of objects and their mask in which every rule shows.

    Image 0: large boxes about one center, so that anchors are contested and every metric is above 0. Images from 1 on: one
    box each, from 2 to 40 pixels wide and of another height.
    """
    generator = torch.Generator().manual_seed(0)
    anchors = torch.cat([_grid(128, stride) for stride in (8, 16, 32)])
    sizes = torch.tensor([[2.0, 2], [5, 12], [7, 7], [9, 9], [15, 15], [17, 17], [31, 31], [40, 33]])
    images, boxes = 1 + len(sizes), 6
    corner = torch.rand(boxes, 2, generator=generator) * 16 + 20
    crowd = torch.cat((corner, corner + 40 + torch.rand(boxes, 2, generator=generator) * 30), 1)
    gt_boxes = torch.zeros(images, boxes, 4)
    gt_boxes[0] = crowd
    center = torch.tensor([45.3, 61.1])
    gt_boxes[1:, 0] = torch.cat((center - sizes / 2, center + sizes / 2), 1)
    mask = torch.zeros(images, boxes, 1)
    mask[0] = mask[1:, 0] = 1
    near = gt_boxes[:, :1].clone()
    near[0, 0] = crowd.mean(0)
    predicted = near + torch.rand(images, len(anchors), 4, generator=generator) * 3
    scores = torch.rand(images, len(anchors), max(classes, 1), generator=generator) * 0.9 + 0.05
    labels = torch.randint(0, max(classes, 1), (images, boxes, 1), generator=generator)
    return scores, predicted, anchors, labels, gt_boxes, mask


def _grid(size: int, stride: int) -> Tensor:
    side = (torch.arange(size // stride) + 0.5) * stride
    return torch.cartesian_prod(side, side).flip(1)
