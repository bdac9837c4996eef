"""Detections against ground truth: greedy matching, precision and recall over confidence, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from yolov9k.tasks.detect.ground_truth import GroundTruth

CONFIDENCE_GRID = np.linspace(0.0, 1.0, 1001)

FALSE_POSITIVE, TRUE_POSITIVE, IGNORED = 0, 1, -1


def overlap(boxes: NDArray[np.float64], ground_truth: GroundTruth) -> NDArray[np.float64]:
    """IoU [n, m] of boxes [n, 4] with the ground truth; for crowd regions the share of the box inside, as COCO defines it."""
    top_left = np.maximum(boxes[:, None, :2], ground_truth.boxes[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], ground_truth.boxes[None, :, 2:])
    shared = (bottom_right - top_left).clip(min=0).prod(2)
    own, other = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, ground_truth.boxes))
    union = np.where(ground_truth.crowd, own[:, None], own[:, None] + other - shared)
    return np.asarray(shared / np.maximum(union, 1e-12))


def match_by_score(detections: NDArray[np.float64], ground_truth: GroundTruth, threshold: float) -> NDArray[np.int8]:
    """Outcome [n] of detections [n, 6] (x1 y1 x2 y2 score class; highest score first): COCO's greedy rule.

    Each takes the best free box of its class with IoU >= threshold. One that finds none is IGNORED when a crowd
    region of its class holds it, else a FALSE_POSITIVE.
    """
    iou = overlap(detections[:, :4], ground_truth)
    iou[detections[:, 5, None] != ground_truth.classes] = 0
    free = iou[:, ~ground_truth.crowd]
    outcome = np.full(len(detections), FALSE_POSITIVE, np.int8)
    for row in np.flatnonzero((free >= threshold).any(1)):
        best = free[row].argmax()
        if free[row, best] >= threshold:
            outcome[row] = TRUE_POSITIVE
            free[:, best] = 0
    in_crowd = (iou[:, ground_truth.crowd] >= threshold).any(1)
    outcome[(outcome == FALSE_POSITIVE) & in_crowd] = IGNORED
    return outcome


def confidence_curves(
    scores: NDArray[np.float64], classes: NDArray[np.int64], outcomes: NDArray[np.int8], instances: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall [classes, 1001] of the detections with score >= each value of CONFIDENCE_GRID.

    scores, classes, outcomes [n] as match_by_score gives them; instances [classes] counts the ground truth. 0/0 counts as 0.
    """
    shape = len(instances), len(CONFIDENCE_GRID)
    precision, recall = np.zeros(shape), np.zeros(shape)
    counted = outcomes != IGNORED
    for index, present in enumerate(instances):
        chosen = counted & (classes == index)
        order = np.argsort(scores[chosen], kind="stable")
        hits_from_top = np.concatenate([[0], np.cumsum(outcomes[chosen][order][::-1] == TRUE_POSITIVE)])
        kept = len(order) - np.searchsorted(scores[chosen][order], CONFIDENCE_GRID, side="left")
        precision[index] = hits_from_top[kept] / np.maximum(kept, 1)
        recall[index] = hits_from_top[kept] / max(int(present), 1)
    return precision, recall


def add_confusion(
    matrix: NDArray[np.int64], detections: NDArray[np.float64], ground_truth: GroundTruth, confidence: float, threshold: float
) -> None:
    """Count one image into matrix [classes + 1, classes + 1] (rows predicted, columns true, last is background).

    Pairs are formed greedily by IoU, whatever their class. Detections held by crowd ground truth are left out.
    """
    background = len(matrix) - 1
    detections = detections[detections[:, 4] >= confidence]
    predicted, iou = detections[:, 5].astype(np.int64), overlap(detections[:, :4], ground_truth)
    in_crowd = (iou[:, ground_truth.crowd] >= threshold).any(1)
    iou, classes = iou[:, ~ground_truth.crowd], ground_truth.classes[~ground_truth.crowd]
    rows, columns = _greedy_pairs(iou, threshold)
    np.add.at(matrix, (predicted[rows], classes[columns]), 1)
    unmatched: NDArray[np.bool_] = np.logical_not(in_crowd)
    unmatched[rows] = False
    size = len(matrix)
    matrix[:, background] += np.bincount(predicted[unmatched], minlength=size)
    matrix[background] += np.bincount(np.delete(classes, columns), minlength=size)


def _greedy_pairs(iou: NDArray[np.float64], threshold: float) -> tuple[list[int], list[int]]:
    """Rows and columns of the pairs with IoU >= threshold, best first, each row and column used once."""
    rows: list[int] = []
    columns: list[int] = []
    for flat in np.argsort(-iou, axis=None, kind="stable")[: int((iou >= threshold).sum())]:
        row, column = divmod(int(flat), iou.shape[1])
        if row not in rows and column not in columns:
            rows.append(row)
            columns.append(column)
    return rows, columns


def stack(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Rows [n, 6] of all parts, highest score first (ties keep their order)."""
    rows = np.concatenate([np.zeros((0, 6)), *parts])
    return np.asarray(rows[np.argsort(-rows[:, 4], kind="stable")])
