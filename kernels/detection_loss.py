"""The detection loss in Triton, straight from the raw maps: no dense targets, nothing flattened or concatenated.

`predictions` writes what the assigner reads. `loss` then goes over the maps once: class loss over all anchors, box and
distribution loss over those that have a box, and, where asked, the gradient of a weighted sum of the three into maps of the
same layout. A program serves BLOCK neighboring anchors of one image; its sums are added in a fixed order, so every run is the
same. At 16 bins and 80 classes that is 144 values read an anchor, and 144 written with the gradient. float32 inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._aot import AotVariant, typed
from .dfl_decode import _expectation

if TYPE_CHECKING:
    from yolov9k.ops.reference.detection_loss import LossOptions

BLOCK = 32  # anchors a program
CLASSES = 16  # rows of classes a step
EPS: tl.constexpr = tl.constexpr(1e-7)  # as in the reference's box_ciou


@triton.jit
def _predictions(
    ptr, boxes, logits, first, anchors, total, width, b, c, h, w, pixels, classes, reg_max,
    BINS: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Boxes [B, total, 4] in pixels and class logits [B, total, classes] of one level's anchors."""
    cell, image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    mask = cell < anchors
    y, x = cell // width, cell % width
    offsets, anchor = image * b + y * h + x * w, image * total + first + cell
    place, px, py = boxes + anchor * 4, x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
    tl.store(place, (px - _expectation(ptr, offsets, mask, c, 0, reg_max, BINS)) * pixels, mask)
    tl.store(place + 1, (py - _expectation(ptr, offsets, mask, c, 1, reg_max, BINS)) * pixels, mask)
    tl.store(place + 2, (px + _expectation(ptr, offsets, mask, c, 2, reg_max, BINS)) * pixels, mask)
    tl.store(place + 3, (py + _expectation(ptr, offsets, mask, c, 3, reg_max, BINS)) * pixels, mask)
    for start in range(0, classes, CLASSES):
        row = start + tl.arange(0, CLASSES)
        inside = mask[:, None] & (row[None, :] < classes)
        value = tl.load(ptr + offsets[:, None] + (4 * reg_max + row)[None, :] * c, inside, other=0.0)
        tl.store(logits + anchor[:, None] * classes + row[None, :], value, inside)


@triton.jit
def _arctan(x):
    """Of x >= 0: reduced to tan(pi / 8) at most, then a polynomial fitted to a tenth of a unit in the last place."""
    steep, middle = x > 2.414213562, x > 0.4142135624
    t = tl.where(steep, -1.0 / tl.where(steep, x, 1.0), tl.where(middle, (x - 1.0) / (x + 1.0), x))
    z = t * t
    p = -0.0603324517 * z + 0.1057282031
    p = p * z - 0.1423998464
    p = p * z + 0.1999821098
    p = p * z - 0.3333330750
    p = p * z + 0.9999999994
    return tl.where(steep, 1.5707963268, tl.where(middle, 0.7853981634, 0.0)) + t * p


@triton.jit
def _first_larger(a, b):
    """Share of a in the gradient of max(a, b): ties are halved, as in torch."""
    return tl.where(a > b, 1.0, tl.where(a == b, 0.5, 0.0))


@triton.jit
def _overlap(a1, a2, b1, b2):
    """Of two intervals: overlap and its derivatives by a1 and a2; extent of both together and its derivatives."""
    length = tl.minimum(a2, b2) - tl.maximum(a1, b1)
    there = tl.where(length >= 0, 1.0, 0.0)
    hull = tl.maximum(a2, b2) - tl.minimum(a1, b1)
    one, two = _first_larger(a1, b1), _first_larger(b2, a2)
    return tl.maximum(length, 0.0), -one * there, two * there, hull, one - 1.0, 1.0 - two


@triton.jit
def _ciou(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2):
    """Complete IoU (arXiv 2005.03572, eq. 10) and its derivatives by a's sides; the aspect's weight is held constant."""
    wa, ha, wb, hb = ax2 - ax1, ay2 - ay1 + EPS, bx2 - bx1, by2 - by1 + EPS
    ow, ow1, ow2, hw, hw1, hw2 = _overlap(ax1, ax2, bx1, bx2)
    oh, oh1, oh2, hh, hh1, hh2 = _overlap(ay1, ay2, by1, by2)
    common = ow * oh
    union = wa * ha + wb * hb - common + EPS
    iou = common / union
    diagonal = hw * hw + hh * hh + EPS
    sx, sy = bx1 + bx2 - ax1 - ax2, by1 + by2 - ay1 - ay2
    distance = (sx * sx + sy * sy) / 4
    angle = _arctan(wb / hb) - _arctan(wa / ha)
    aspect = 0.4052847346 * angle * angle  # 4 / pi^2
    weight = aspect / (aspect - iou + (1 + EPS))
    turn = weight * 0.8105694691 * angle / (wa * wa + ha * ha)  # the aspect's derivative by (wa, ha) is turn * (-ha, wa)
    far = distance / (diagonal * diagonal) * 2
    x1 = (ow1 * oh * (1 + iou) + ha * iou) / union + sx / 2 / diagonal + far * hw * hw1 - turn * ha
    x2 = (ow2 * oh * (1 + iou) - ha * iou) / union + sx / 2 / diagonal + far * hw * hw2 + turn * ha
    y1 = (oh1 * ow * (1 + iou) + wa * iou) / union + sy / 2 / diagonal + far * hh * hh1 + turn * wa
    y2 = (oh2 * ow * (1 + iou) - wa * iou) / union + sy / 2 / diagonal + far * hh * hh2 - turn * wa
    return iou - (distance / diagonal + weight * aspect), x1, y1, x2, y2


@triton.jit
def _side(
    ptr, out, offsets, places, mask, positive, c, out_c, side, reg_max, distance, box_gradient, dfl_scale,
    GRADIENT: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Cross entropy of one side with the two bins around `distance`.

    Its gradient is scaled by `dfl_scale`; the box loss adds its own, `box_gradient` by the side's expected distance.
    """
    bins = tl.arange(0, BINS)
    channel = (side * reg_max + bins)[:, None]
    inside = (bins[:, None] < reg_max) & mask[None, :]
    logits = tl.load(ptr + offsets[None, :] + channel * c, inside, other=float("-inf")).to(tl.float32)
    logits = tl.where(mask[None, :], logits, 0.0)
    most = tl.max(logits, 0)
    probabilities = tl.exp(logits - most[None, :])
    norm = tl.sum(probabilities, 0)
    probabilities = probabilities / norm[None, :]
    left = tl.floor(distance)
    number = bins[:, None].to(tl.float32)
    at_left, at_right = number == left[None, :], number == left[None, :] + 1.0
    target = tl.where(at_left, (left + 1.0 - distance)[None, :], 0.0) + tl.where(at_right, (distance - left)[None, :], 0.0)
    known = tl.where(target > 0, logits, 0.0)  # a bin that is not there is -inf, and its target 0
    entropy = most + tl.log(norm) - tl.sum(target * known, 0)
    if GRADIENT:
        expected = tl.sum(probabilities * number, 0)
        by_box = probabilities * (number - expected[None, :]) * box_gradient[None, :]
        grad = (probabilities - target) * dfl_scale[None, :] + by_box
        tl.store(out + places[None, :] + channel * out_c, tl.where(positive[None, :], grad, 0.0), inside)
    return tl.where(positive, entropy, 0.0)


@triton.jit
def _loss(
    ptr, out, gt_index, weights, weight_sum, labels, gt_boxes, factors, parts, first, anchors, total, width,
    b, c, h, w, out_b, out_c, out_h, out_w, pixels, classes, reg_max, images, gt_count, smoothing, pos_weight, slot, slots,
    GRADIENT: tl.constexpr, IMAGES: tl.constexpr, BINS: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One level: the three parts of BLOCK anchors' loss, and where asked the gradient of factors . parts."""
    cell, image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    mask = cell < anchors
    y, x = cell // width, cell % width
    offsets, places = image * b + y * h + x * w, image * out_b + y * out_h + x * out_w
    anchor = image * total + first + cell
    owner = tl.load(gt_index + anchor, mask, other=-1)
    weight = tl.load(weights + anchor, mask, other=0.0)
    positive = owner >= 0
    number = tl.arange(0, IMAGES)
    scale = 1.0 / tl.maximum(tl.sum(tl.load(weight_sum + number, number < images, other=0.0), 0), 1.0)
    box_factor, class_factor, dfl_factor = tl.load(factors), tl.load(factors + 1), tl.load(factors + 2)
    mine = image * gt_count + owner
    label = tl.load(labels + mine, positive, other=-1)
    nothing = tl.full((), 0.0, tl.float32)
    box_part, class_part, dfl_part = nothing, nothing, nothing
    for start in range(0, classes, CLASSES):
        row = start + tl.arange(0, CLASSES)
        inside = (row[:, None] < classes) & mask[None, :]
        channel = (4 * reg_max + row)[:, None]
        logit = tl.load(ptr + offsets[None, :] + channel * c, inside, other=0.0).to(tl.float32)
        target = tl.where(row[:, None] == label[None, :], weight[None, :], 0.0) * (1.0 - smoothing) + 0.5 * smoothing
        tail = tl.exp(-tl.abs(logit))
        above = 1.0 + tail
        log1p = tl.where(above == 1.0, tail, tl.log(above) * (tail / tl.where(above == 1.0, 1.0, above - 1.0)))
        rest, hit = 1.0 - target, pos_weight * target
        # Most logits are far below zero: no term may be the difference of two large ones.
        value = (rest + hit) * log1p + tl.abs(logit) * tl.where(logit < 0, hit, rest)
        class_part += tl.sum(tl.where(inside, value, 0.0))
        if GRADIENT:
            grad = ((rest + hit) * tl.sigmoid(logit) - hit) * (scale * class_factor)
            tl.store(out + places[None, :] + channel * out_c, grad, inside)
    if tl.max(positive.to(tl.int32), 0) > 0:
        px, py = x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
        gt_box = gt_boxes + mine * 4
        tx1 = tl.load(gt_box, positive, other=0.0) / pixels
        ty1 = tl.load(gt_box + 1, positive, other=0.0) / pixels
        tx2 = tl.load(gt_box + 2, positive, other=1.0) / pixels
        ty2 = tl.load(gt_box + 3, positive, other=1.0) / pixels
        ax1 = px - _expectation(ptr, offsets, mask, c, 0, reg_max, BINS)
        ay1 = py - _expectation(ptr, offsets, mask, c, 1, reg_max, BINS)
        ax2 = px + _expectation(ptr, offsets, mask, c, 2, reg_max, BINS)
        ay2 = py + _expectation(ptr, offsets, mask, c, 3, reg_max, BINS)
        ciou, x1, y1, x2, y2 = _ciou(ax1, ay1, ax2, ay2, tx1, ty1, tx2, ty2)
        box_part = tl.sum(tl.where(positive, (1.0 - ciou) * weight, 0.0), 0)
        most = reg_max - 1 - 0.01
        box_scale, dfl_scale = weight * (scale * box_factor), weight * (scale * dfl_factor * 0.25)
        left = tl.minimum(tl.maximum(px - tx1, 0.0), most)
        top = tl.minimum(tl.maximum(py - ty1, 0.0), most)
        right = tl.minimum(tl.maximum(tx2 - px, 0.0), most)
        bottom = tl.minimum(tl.maximum(ty2 - py, 0.0), most)
        entropy = _side(
            ptr, out, offsets, places, mask, positive, c, out_c, 0, reg_max, left, box_scale * x1, dfl_scale, GRADIENT, BINS
        )  # fmt: skip
        entropy += _side(
            ptr, out, offsets, places, mask, positive, c, out_c, 1, reg_max, top, box_scale * y1, dfl_scale, GRADIENT, BINS
        )  # fmt: skip
        entropy += _side(
            ptr, out, offsets, places, mask, positive, c, out_c, 2, reg_max, right, -box_scale * x2, dfl_scale, GRADIENT, BINS
        )  # fmt: skip
        entropy += _side(
            ptr, out, offsets, places, mask, positive, c, out_c, 3, reg_max, bottom, -box_scale * y2, dfl_scale, GRADIENT, BINS
        )  # fmt: skip
        dfl_part = tl.sum(entropy * 0.25 * weight, 0)
    elif GRADIENT:
        bins = tl.arange(0, BINS)
        for side in tl.static_range(4):
            inside = (bins[:, None] < reg_max) & mask[None, :]
            place = out + places[None, :] + (side * reg_max + bins)[:, None] * out_c
            tl.store(place, tl.zeros((BINS, BLOCK), tl.float32), inside)
    place = parts + slot + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(place, box_part * scale)
    tl.store(place + slots, class_part * scale)
    tl.store(place + 2 * slots, dfl_part * scale)


def predictions(maps: Sequence[Tensor], strides: Sequence[int], reg_max: int) -> tuple[Tensor, Tensor]:
    """What the assigner reads: boxes x1, y1, x2, y2 in pixels, float32 [B, A, 4], and logits [B, A, nc] in the maps' dtype."""
    (batch, channels), counts = maps[0].shape[:2], [level.shape[2] * level.shape[3] for level in maps]
    classes, total, first = channels - 4 * reg_max, sum(counts), 0
    boxes = maps[0].new_empty((batch, total, 4), dtype=torch.float32)
    logits = maps[0].new_empty((batch, total, classes))
    for level, pixels, anchors in zip(maps, strides, counts, strict=True):
        if level.numel():
            with torch.cuda.device_of(level):  # type: ignore[no-untyped-call]
                _predictions[(triton.cdiv(anchors, BLOCK), batch)](
                    level, boxes, logits, first, anchors, total, level.shape[3], *level.stride(), float(pixels), classes,
                    reg_max, BINS=triton.next_power_of_2(reg_max), CLASSES=CLASSES, BLOCK=BLOCK,
                )  # fmt: skip
        first += anchors
    return boxes, logits


def loss(
    maps: Sequence[Tensor], gt_index: Tensor, weight: Tensor, weight_sum: Tensor, labels: Tensor, gt_boxes: Tensor,
    strides: Sequence[int], options: LossOptions, factors: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Parts of the loss, float32 [3]: box, class, dfl; with factors [3] also the gradients of factors . parts.

    maps [B, 4 * reg_max + nc, h, w] a level; gt_index int64 [B, A], weight [B, A] and weight_sum [B] float32: the
    assignment; labels int64 [B, G]; gt_boxes float32 [B, G, 4] in pixels. Gradients have the maps' dtype and layout.
    """
    (batch, channels), counts = maps[0].shape[:2], [level.shape[2] * level.shape[3] for level in maps]
    reg_max, smoothing, pos_weight = options.reg_max, options.label_smoothing, options.pos_weight
    grads = [] if factors is None else [torch.empty_like(level) for level in maps]
    tiles = [triton.cdiv(count, BLOCK) * batch for count in counts]
    parts = maps[0].new_empty((3, sum(tiles)), dtype=torch.float32)
    used = parts.new_ones(3) if factors is None else factors
    first = slot = 0
    for i, (level, pixels, anchors) in enumerate(zip(maps, strides, counts, strict=True)):
        out = grads[i] if grads else level
        if level.numel():
            with torch.cuda.device_of(level):  # type: ignore[no-untyped-call]
                _loss[(triton.cdiv(anchors, BLOCK), batch)](
                    level, out, gt_index, weight, weight_sum, labels, gt_boxes, used, parts,
                    first, anchors, sum(counts), level.shape[3], *level.stride(), *out.stride(), float(pixels),
                    channels - 4 * reg_max, reg_max, batch, labels.shape[1], smoothing, pos_weight, slot, sum(tiles),
                    GRADIENT=factors is not None, IMAGES=triton.next_power_of_2(batch),
                    BINS=triton.next_power_of_2(reg_max), CLASSES=CLASSES, BLOCK=BLOCK,
                )  # fmt: skip
        first, slot = first + anchors, slot + tiles[i]
    return parts.sum(1), grads


def aot_variants() -> list[AotVariant]:
    """What the assigner is given, and the loss with and without its gradient."""
    types = typed("ptr out logits", "*bf16") | typed("gt_index labels", "*i64")
    types |= typed("pixels smoothing pos_weight", "fp32")
    types |= typed(
        "first anchors total width b c h w out_b out_c out_h out_w classes reg_max images gt_count slot slots", "i32"
    )
    sizes = {"IMAGES": 16, "BINS": 16, "CLASSES": 16, "BLOCK": 32}
    return [
        AotVariant("_predictions", types, sizes),
        AotVariant("_loss", types, sizes | {"GRADIENT": False}, "forward"),
        AotVariant("_loss", types, sizes | {"GRADIENT": True}, "with gradient"),
    ]
