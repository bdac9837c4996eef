"""detection_loss in plain torch: the definition (facts: loss)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from yolov9k.ops.library import label
from yolov9k.ops.reference.boxes import box_ciou
from yolov9k.ops.reference.dfl_decode import expected_distances, flatten_levels, make_anchors
from yolov9k.ops.task_aligned_assign import task_aligned_assign


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
    maps: Sequence[Tensor], gt_labels: Tensor, gt_boxes: Tensor, counts: Tensor, strides: Sequence[int], reg_max: int,
    topk: int, alpha: float, beta: float, label_smoothing: float, pos_weight: float,
    assigner: str = "auto",
) -> Tensor:  # fmt: skip
    """Parts of one branch's loss; shapes and result as in `yolov9k.ops.detection_loss`. No data-dependent shape inside."""
    flat = flatten_levels(maps)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    gt_boxes = gt_boxes.to(flat.dtype)
    bins, logits = flat[..., : 4 * reg_max], flat[..., 4 * reg_max :]
    points, scales = (tensor.to(flat.dtype) for tensor in make_anchors([level.float() for level in maps], strides))
    distances = expected_distances(bins, reg_max)
    boxes = torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1)
    mask = torch.arange(gt_boxes.shape[1], device=counts.device) < counts[:, None]
    with label("step/assignment"):
        gt_index, weight = task_aligned_assign(
            logits.detach().sigmoid(), boxes.detach() * scales, points * scales, gt_labels, gt_boxes, mask, topk, alpha, beta,
            backend=assigner,
        )  # fmt: skip
    if gt_boxes.shape[1] == 0:
        targets = torch.full_like(logits, 0.5 * label_smoothing)
        cls = class_loss(logits, targets, pos_weight)
        return torch.stack((bins.sum() * 0, cls, bins.sum() * 0))
    owner = gt_index.clamp(min=0)
    labels = gt_labels.long().gather(1, owner)
    targets = torch.zeros_like(logits).scatter(2, labels[..., None], weight[..., None])
    total_weight = targets.sum().clamp(min=1)
    targets = targets * (1 - label_smoothing) + 0.5 * label_smoothing
    cls = class_loss(logits, targets, pos_weight) / total_weight
    truth = gt_boxes.gather(1, owner[..., None].expand(-1, -1, 4)) / scales
    box = ((1 - box_ciou(boxes, truth)) * weight).sum() / total_weight
    sides = torch.cat((points - truth[..., :2], truth[..., 2:] - points), -1).clamp(0, reg_max - 1 - 0.01)
    dfl = (distribution_focal_loss(bins.reshape(*bins.shape[:-1], 4, reg_max), sides) * weight).sum() / total_weight
    return torch.stack((box, cls, dfl))
