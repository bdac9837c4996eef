"""detection_loss in plain torch: the definition.

The assigner of TOOD (arXiv 2108.07755, section 3.2), CIoU (arXiv 2005.03572, eq. 10), binary cross entropy, and the
distribution focal loss (arXiv 2006.04388, eq. 6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from yolov9k.ops.reference.boxes import box_ciou
from yolov9k.ops.reference.dfl_decode import expected_distances, flatten_levels, make_anchors
from yolov9k.ops.reference.task_aligned_assign import AssignOptions, reach_limits, task_aligned_assign

Assign = Callable[..., tuple[Tensor, Tensor, Tensor]]  # arguments as `task_aligned_assign` of the reference


@dataclass(frozen=True)
class LossOptions:
    """Parameters of one branch's loss.

    reg_max: bins of each side's distribution, at least 2. assign: those of the assignment. label_smoothing: in [0, 1),
    moves target scores towards 0.5. pos_weight: factor of the targets' share of the class loss, at least 0.
    Raises ValueError naming the argument.
    """

    reg_max: int = 16
    assign: AssignOptions = field(default_factory=AssignOptions)
    label_smoothing: float = 0.0
    pos_weight: float = 1.0

    def __post_init__(self) -> None:
        for name, value, valid, expected in (
            ("reg_max", self.reg_max, self.reg_max >= 2, "at least 2"),
            ("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("pos_weight", self.pos_weight, self.pos_weight >= 0, "at least 0"),
        ):
            if not valid:
                raise ValueError(f"detection_loss: {name} must be {expected}, got {value}")


def distribution_focal_loss(bins: Tensor, distances: Tensor) -> Tensor:
    """Cross entropy of each side with the two bins around its distance, mean over sides (arXiv 2006.04388, eq. 6).

    bins [..., 4, reg_max] logits, distances [..., 4] in strides within [0, reg_max - 1). Returns [...].
    """
    left = distances.long()
    share_left = left + 1 - distances
    share_right = 1 - share_left
    logits = bins.flatten(0, -2)
    at_left = F.cross_entropy(logits, left.flatten(), reduction="none").view(left.shape)
    at_right = F.cross_entropy(logits, left.flatten() + 1, reduction="none").view(left.shape)
    return (at_left * share_left + at_right * share_right).mean(-1)


def class_loss(logits: Tensor, targets: Tensor, pos_weight: float) -> Tensor:
    """Binary cross entropy summed over all anchors and classes; pos_weight multiplies the targets' share."""
    weight = torch.full((1,), pos_weight, device=logits.device, dtype=logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none").sum()


def detection_loss(
    maps: Sequence[Tensor], gt_labels: Tensor, gt_boxes: Tensor, counts: Tensor, strides: Sequence[int],
    options: LossOptions, assign: Assign = task_aligned_assign,
) -> Tensor:  # fmt: skip
    """Parts of one branch's loss; shapes and result as in `yolov9k.ops.detection_loss`. No data-dependent shape inside.

    assign: the assigner, such as a compiled one that gives the same bits.
    """
    flat = flatten_levels(maps)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    gt_boxes, reg_max, smoothing = gt_boxes.to(flat.dtype), options.reg_max, options.label_smoothing
    bins, logits = flat[..., : 4 * reg_max], flat[..., 4 * reg_max :]
    points, scales = (tensor.to(flat.dtype) for tensor in make_anchors([level.float() for level in maps], strides))
    distances = expected_distances(bins, reg_max)
    boxes = torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1)
    mask = torch.arange(gt_boxes.shape[1], device=counts.device) < counts[:, None]
    scores, predicted = logits.detach().sigmoid(), boxes.detach() * scales
    limits = reach_limits(scales[:, 0], options.assign)
    gt_index, weight, _ = assign(scores, predicted, points * scales, gt_labels, gt_boxes, mask, options.assign, limits=limits)
    if gt_boxes.shape[1] == 0:
        cls = class_loss(logits, torch.full_like(logits, 0.5 * smoothing), options.pos_weight)
        return torch.stack((bins.sum() * 0, cls, bins.sum() * 0))
    owner = gt_index.clamp(min=0)
    labels = gt_labels.long().gather(1, owner)
    targets = torch.zeros_like(logits).scatter(2, labels[..., None], weight[..., None])
    total_weight = targets.sum().clamp(min=1)
    targets = targets * (1 - smoothing) + 0.5 * smoothing
    cls = class_loss(logits, targets, options.pos_weight) / total_weight
    target = gt_boxes.gather(1, owner[..., None].expand(-1, -1, 4)) / scales
    box = ((1 - box_ciou(boxes, target)) * weight).sum() / total_weight
    sides = torch.cat((points - target[..., :2], target[..., 2:] - points), -1).clamp(0, reg_max - 1 - 0.01)
    dfl = (distribution_focal_loss(bins.reshape(*bins.shape[:-1], 4, reg_max), sides) * weight).sum() / total_weight
    return torch.stack((box, cls, dfl))
