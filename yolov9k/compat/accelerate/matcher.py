"""Matchers of the MIT rewrite and LibreYOLO, run by our operator with their own settings."""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from torch import Tensor

from yolov9k.compat.accelerate.swap import Swapped, swapped
from yolov9k.ops import AssignOptions, task_aligned_assign

_CLOSE = 1e-4  # as of assigners
_SIZE = [128, 128]  # pixels of the image that a matcher is tried on which is not there yet


class AcceleratedMatcher(Swapped):
    """A matcher whose call is our operator; its settings are read at each call, as its grid may be another one."""

    def __call__(self, target: Tensor, predict: tuple[Tensor, Tensor], *rest: Any, **named: Any) -> Any:
        """target [B, G, 5]: class and box; predict: logits [B, A, nc], boxes [B, A, 4]. Else the original runs."""
        if rest or set(named) - {"return_indices"} or target.shape[1] == 0:
            return super().__call__(target, predict, *rest, **named)  # type: ignore[misc]
        found = matched(self, target, *predict)
        return found if named.get("return_indices") else found[:2]


@torch.no_grad()
def matched(matcher: Any, target: Tensor, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What matchers of this kind return: [B, A, nc + 4] weights of classes and the box, whether an anchor has one, whose."""
    grid = getattr(matcher, "vec2box", matcher)
    labels, gt_boxes = target[..., 0].long().clamp(min=0), target[..., 1:]
    index, weight = task_aligned_assign(
        logits, boxes, grid.anchor_grid.to(boxes.dtype), labels, gt_boxes, torch.ones_like(labels),
        logits=True, options=_options(matcher), strides=grid.scaler,
    )  # fmt: skip
    owner = index.clamp(min=0)
    box = gt_boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    classes = logits.new_zeros(logits.shape, dtype=weight.dtype).scatter_(
        2, labels.gather(1, owner)[..., None], weight[..., None]
    )
    return torch.cat((classes, box.to(classes.dtype)), -1), index >= 0, owner


def _options(matcher: Any) -> AssignOptions:
    factors = getattr(matcher, "factor", None)
    alpha, beta = (matcher.cls_factor, matcher.iou_factor) if factors is None else (factors["cls"], factors["iou"])
    return AssignOptions(int(matcher.topk), float(alpha), float(beta), reach=matcher.reg_max - 1.01)


def matcher_of(loss: Any) -> Any:
    """The matcher that a loss holds, or one as it would make it for an image; None where it has none."""
    held = getattr(loss, "matcher", None)
    if held is None and callable(getattr(loss, "_init_vec2box", None)):
        twin = copy.copy(loss)
        twin._init_vec2box(_SIZE)
        held = twin.matcher
    return held


def agrees(matcher: Any) -> bool:
    """Whether ours gives what this matcher gives, on drawn boxes of all sizes."""
    try:
        grid = getattr(matcher, "vec2box", matcher)
        target, logits, boxes = _scene(grid.anchor_grid, int(getattr(matcher, "num_classes", 0) or matcher.class_num))
        theirs, ours = matcher(target, (logits, boxes)), matched(matcher, target, logits, boxes)
        some = ours[1]
        return torch.equal(theirs[1], some) and torch.allclose(theirs[0][some].to(ours[0].dtype), ours[0][some], _CLOSE, _CLOSE)
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError):
        return False


def _scene(anchors: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Targets, logits and boxes in which every rule shows: contests, boxes out of reach, edges on anchors, padding."""
    generator = torch.Generator().manual_seed(0)
    extent = float(anchors.max()) + 4
    corner = (torch.rand(3, 8, 2, generator=generator) * extent / 8).round() * 4
    sides = torch.tensor([1.0, 3, 16, 40, 60, 80, 100, 120]) / 128 * extent
    gt_boxes = torch.cat((corner, corner + sides[:, None]), -1)
    labels = torch.randint(0, classes, (3, 8, 1), generator=generator).float()
    target = torch.cat((labels, gt_boxes), -1)
    target[2, 5:] = torch.tensor([-1.0, 0, 0, 0, 0])
    near = torch.randint(5, (3, len(anchors), 1), generator=generator).expand(-1, -1, 4)
    boxes = gt_boxes.gather(1, near) + torch.randn(3, len(anchors), 4, generator=generator) * extent / 64
    logits = torch.randn(3, len(anchors), classes, generator=generator)
    return target.to(anchors.device), logits.to(anchors.device), boxes.to(anchors.device)


def factory(loss: Any, matcher: Any) -> tuple[Any, str, type] | None:
    """Where the module of a loss has the class of its matchers, and the accelerated class: it makes one for each image size."""
    module = sys.modules.get(type(loss).__module__)
    name = type(matcher).__name__
    if getattr(module, name, None) is not type(matcher):
        return None
    return module, name, swapped(type(matcher), AcceleratedMatcher, {})
