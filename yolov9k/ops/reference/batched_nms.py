"""batched_nms in plain torch: the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov9k.ops.reference.boxes import box_iou

MAX_CANDIDATES = 30_000  # an image's best by score, as the published evaluation keeps
_CHUNK = 512


def candidates(
    prediction: Tensor, conf_threshold: float, classes: Sequence[int] | None, multi_label: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [N, 4] xyxy, scores [N] and classes [N] of one image [4 + nc, A], best first, ties to the lowest index."""
    probabilities = prediction[4:].T
    center, half = prediction[:2].T, prediction[2:4].T / 2
    boxes = torch.cat((center - half, center + half), 1)
    passing = (probabilities > conf_threshold) & probabilities.isfinite() & boxes.isfinite().all(1, keepdim=True)
    if not multi_label:
        best = probabilities.nan_to_num(-1.0, -1.0, -1.0).argmax(1, keepdim=True)
        passing &= torch.zeros_like(passing).scatter_(1, best, True)
    if classes is not None:
        chosen = torch.zeros(probabilities.shape[1], dtype=torch.bool, device=prediction.device)
        chosen[list(classes)] = True
        passing &= chosen
    anchor, label = passing.nonzero(as_tuple=True)
    scores = probabilities[anchor, label]
    order = scores.argsort(descending=True, stable=True)[:MAX_CANDIDATES]
    return boxes[anchor[order]], scores[order], label[order]


def greedy_keep(boxes: Tensor, groups: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """Indices that greedy suppression keeps, at most `limit`, of boxes [N, 4] sorted best first.

    A box falls to a kept one before it of the same group whose IoU is above the threshold. Worked in chunks: first
    against all kept so far, then within the chunk by iterating the definition to its fixed point.
    """
    kept = torch.empty(0, dtype=torch.int64, device=boxes.device)
    for start in range(0, len(boxes), _CHUNK):
        index = torch.arange(start, min(start + _CHUNK, len(boxes)), device=boxes.device)
        same = groups[index][:, None] == groups[kept]
        fallen = ((box_iou(boxes[index], boxes[kept]) > iou_threshold) & same).any(1)
        index = index[~fallen]
        same = groups[index][:, None] == groups[index]
        covers = ((box_iou(boxes[index], boxes[index]) > iou_threshold) & same).triu(1)
        keep = torch.ones(len(index), dtype=torch.bool, device=boxes.device)
        while not torch.equal(keep, settled := ~(covers & keep[:, None]).any(0)):
            keep = settled
        kept = torch.cat((kept, index[keep]))
        if len(kept) >= limit:
            break
    return kept[:limit]


def batched_nms(
    prediction: Tensor, conf_threshold: float, iou_threshold: float, classes: Sequence[int] | None = None,
    class_agnostic: bool = False, multi_label: bool = False, max_detections: int = 300, lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Padded detections and counts; shapes and results as in `yolov9k.ops.batched_nms`."""
    exact = prediction if prediction.dtype in (torch.float32, torch.float64) else prediction.float()
    detections = exact.new_zeros((len(prediction), max_detections, 6))
    counts = torch.zeros(len(prediction), dtype=torch.int64, device=prediction.device)
    for i, image in enumerate(exact):
        image = image if lengths is None else image[:, : max(int(lengths[i]), 0)]
        boxes, scores, labels = candidates(image, conf_threshold, classes, multi_label)
        groups = torch.zeros_like(labels) if class_agnostic else labels
        keep = greedy_keep(boxes, groups, iou_threshold, max_detections)
        detections[i, : len(keep)] = torch.cat((boxes[keep], scores[keep, None], labels[keep, None].to(boxes.dtype)), 1)
        counts[i] = len(keep)
    return detections, counts
