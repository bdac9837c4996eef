"""DFL decode in Triton: raw maps of all levels to boxes and probabilities in one launch, without cat or permute; and back.

A program decodes BLOCK neighboring anchors of one image: it reads each of their values once and writes each result once,
float32 inside. Channels-last maps and NCHW ones differ in strides alone. At 16 bins and 80 classes that is 144 values read and
84 written an anchor; nothing is shared between anchors, so the floor is the copy bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._aot import AotVariant, typed

MOST_LEVELS = 3
BLOCK = 64  # anchors a program; a level's last program is partly idle


@triton.jit
def _expectation(ptr, offsets, mask, stride_c, side, reg_max, BINS: tl.constexpr):
    """Expected distance [BLOCK] of one side, in strides."""
    bins = tl.arange(0, BINS)
    inside = (bins[:, None] < reg_max) & mask[None, :]
    place = ptr + offsets[None, :] + (side * reg_max + bins)[:, None] * stride_c
    logits = tl.load(place, inside, other=float("-inf")).to(tl.float32)
    logits = tl.where(mask[None, :], logits, 0.0)  # an idle lane must not make NaN of -inf less -inf
    shares = tl.exp(logits - tl.max(logits, 0)[None, :])
    shares = shares / tl.sum(shares, 0)[None, :]
    return tl.sum(shares * bins[:, None].to(tl.float32), 0)


@triton.jit
def _decode_tile(
    ptr, out, first, cell, anchors, width, stride_b, stride_c, stride_h, stride_w, image, pixels, total, classes, reg_max,
    BINS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Decode the cells `cell` of one level of `image`; `first` is the level's first anchor."""
    mask = cell < anchors
    y, x = cell // width, cell % width
    offsets = image * stride_b + y * stride_h + x * stride_w
    left = _expectation(ptr, offsets, mask, stride_c, 0, reg_max, BINS)
    top = _expectation(ptr, offsets, mask, stride_c, 1, reg_max, BINS)
    right = _expectation(ptr, offsets, mask, stride_c, 2, reg_max, BINS)
    bottom = _expectation(ptr, offsets, mask, stride_c, 3, reg_max, BINS)
    place = out + image * (4 + classes) * total + first + cell
    tl.store(place, (x.to(tl.float32) + 0.5 + (right - left) / 2) * pixels, mask)
    tl.store(place + total, (y.to(tl.float32) + 0.5 + (bottom - top) / 2) * pixels, mask)
    tl.store(place + 2 * total, (left + right) * pixels, mask)
    tl.store(place + 3 * total, (top + bottom) * pixels, mask)
    for start in range(0, classes, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = (rows[:, None] < classes) & mask[None, :]
        logits = tl.load(ptr + offsets[None, :] + (4 * reg_max + rows)[:, None] * stride_c, inside, other=0.0)
        tl.store(place[None, :] + (4 + rows)[:, None] * total, tl.sigmoid(logits.to(tl.float32)), inside)


@triton.jit
def _decode(
    ptr0, ptr1, ptr2, out, tiles0, tiles1, anchors0, anchors1, anchors2, width0, width1, width2,
    b0, c0, h0, w0, b1, c1, h1, w1, b2, c2, h2, w2, pixels0, pixels1, pixels2, classes, reg_max,
    BINS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tile, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    total = anchors0 + anchors1 + anchors2
    lanes = tl.arange(0, BLOCK)
    if tile < tiles0:
        cell = tile * BLOCK + lanes
        _decode_tile(
            ptr0, out, 0, cell, anchors0, width0, b0, c0, h0, w0, image, pixels0, total, classes, reg_max, BINS, ROWS
        )  # fmt: skip
    elif tile < tiles0 + tiles1:
        cell = (tile - tiles0) * BLOCK + lanes
        _decode_tile(
            ptr1, out, anchors0, cell, anchors1, width1, b1, c1, h1, w1, image, pixels1, total, classes, reg_max, BINS, ROWS
        )  # fmt: skip
    else:
        cell = (tile - tiles0 - tiles1) * BLOCK + lanes
        _decode_tile(
            ptr2, out, anchors0 + anchors1, cell, anchors2, width2, b2, c2, h2, w2, image, pixels2, total, classes, reg_max,
            BINS, ROWS,
        )  # fmt: skip


@triton.jit
def _side_gradient(ptr, out, offsets, places, mask, stride_c, out_c, side, reg_max, upstream, BINS: tl.constexpr):
    """d loss / d logits of one side: p_k (k - expectation), times d loss / d distance."""
    bins = tl.arange(0, BINS)
    inside = (bins[:, None] < reg_max) & mask[None, :]
    channel = (side * reg_max + bins)[:, None]
    logits = tl.load(ptr + offsets[None, :] + channel * stride_c, inside, other=float("-inf")).to(tl.float32)
    logits = tl.where(mask[None, :], logits, 0.0)
    shares = tl.exp(logits - tl.max(logits, 0)[None, :])
    shares = shares / tl.sum(shares, 0)[None, :]
    away = bins[:, None].to(tl.float32)
    away = away - tl.sum(shares * away, 0)[None, :]
    tl.store(out + places[None, :] + channel * out_c, shares * away * upstream[None, :], inside)


@triton.jit
def _decode_backward(
    grad, ptr, out, first, anchors, width, grad_b, grad_r, grad_a, b, c, h, w, out_b, out_c, out_h, out_w, pixels, classes,
    reg_max, BINS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of one level's map; `first` is the level's first anchor."""
    cell, image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    mask = cell < anchors
    y, x = cell // width, cell % width
    offsets, places = image * b + y * h + x * w, image * out_b + y * out_h + x * out_w
    given = grad + image * grad_b + (first + cell) * grad_a
    middle_x = tl.load(given, mask, other=0.0).to(tl.float32) * pixels / 2
    middle_y = tl.load(given + grad_r, mask, other=0.0).to(tl.float32) * pixels / 2
    size_x = tl.load(given + 2 * grad_r, mask, other=0.0).to(tl.float32) * pixels
    size_y = tl.load(given + 3 * grad_r, mask, other=0.0).to(tl.float32) * pixels
    _side_gradient(ptr, out, offsets, places, mask, c, out_c, 0, reg_max, size_x - middle_x, BINS)
    _side_gradient(ptr, out, offsets, places, mask, c, out_c, 1, reg_max, size_y - middle_y, BINS)
    _side_gradient(ptr, out, offsets, places, mask, c, out_c, 2, reg_max, size_x + middle_x, BINS)
    _side_gradient(ptr, out, offsets, places, mask, c, out_c, 3, reg_max, size_y + middle_y, BINS)
    for start in range(0, classes, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = (rows[:, None] < classes) & mask[None, :]
        channel = (4 * reg_max + rows)[:, None]
        score = tl.sigmoid(tl.load(ptr + offsets[None, :] + channel * c, inside, other=0.0).to(tl.float32))
        upstream = tl.load(given[None, :] + (4 + rows)[:, None] * grad_r, inside, other=0.0).to(tl.float32)
        tl.store(out + places[None, :] + channel * out_c, upstream * score * (1.0 - score), inside)


def dfl_decode_backward(grad: Tensor, maps: Sequence[Tensor], strides: Sequence[int], reg_max: int) -> list[Tensor]:
    """Gradients of the maps, each in its map's own layout, from that of the result [B, 4 + nc, A]; a launch a level."""
    results, first = [torch.empty_like(level) for level in maps], 0
    for level, out, pixels in zip(maps, results, strides, strict=True):
        batch, channels, height, width = level.shape
        anchors = height * width
        if level.numel():
            with torch.cuda.device_of(level):  # type: ignore[no-untyped-call]
                _decode_backward[(triton.cdiv(anchors, BLOCK), batch)](
                    grad, level, out, first, anchors, width, *grad.stride(), *level.stride(), *out.stride(), float(pixels),
                    channels - 4 * reg_max, reg_max, BINS=triton.next_power_of_2(reg_max), ROWS=16, BLOCK=BLOCK,
                )  # fmt: skip
        first += anchors
    return results


def dfl_decode(maps: Sequence[Tensor], strides: Sequence[int], reg_max: int) -> Tensor:
    """Boxes and probabilities [B, 4 + nc, A] in the maps' dtype; arguments as in `yolov9k.ops.dfl_decode`.

    maps: one to three levels, bfloat16, float16 or float32, any strides. Raises ValueError for more levels.
    """
    if len(maps) > MOST_LEVELS:
        raise ValueError(f"dfl_decode: the Triton kernel takes at most {MOST_LEVELS} levels, got {len(maps)}")
    batch, channels = maps[0].shape[:2]
    counts = [level.shape[2] * level.shape[3] for level in maps]
    out = maps[0].new_empty((batch, channels - 4 * reg_max + 4, sum(counts)))
    if out.numel() == 0:
        return out
    absent = MOST_LEVELS - len(maps)
    levels, pixels = [*maps, *[maps[0]] * absent], [*map(float, strides), *[1.0] * absent]
    counts += [0] * absent
    tiles = [triton.cdiv(count, BLOCK) for count in counts]
    layout = [stride for level in levels for stride in level.stride()]
    widths = [max(level.shape[3], 1) for level in levels]
    with torch.cuda.device_of(maps[0]):  # type: ignore[no-untyped-call]
        _decode[(sum(tiles), batch)](
            *levels, out, tiles[0], tiles[1], *counts, *widths, *layout, *pixels, channels - 4 * reg_max, reg_max,
            BINS=triton.next_power_of_2(reg_max), ROWS=16, BLOCK=BLOCK,
        )  # fmt: skip
    return out


def aot_variants() -> list[AotVariant]:
    """Forward and backward."""
    forward = (
        typed("ptr0 ptr1 ptr2 out", "*bf16")
        | typed("pixels0 pixels1 pixels2", "fp32")
        | typed("tiles0 tiles1 anchors0 anchors1 anchors2 width0 width1 width2 classes reg_max", "i32")
        | typed("b0 c0 h0 w0 b1 c1 h1 w1 b2 c2 h2 w2", "i32")
    )
    backward = typed("grad ptr out", "*bf16") | {"pixels": "fp32"}
    backward |= typed("first anchors width grad_b grad_r grad_a b c h w out_b out_c out_h out_w classes reg_max", "i32")
    sizes = {"BINS": 16, "ROWS": 16, "BLOCK": 64}
    return [AotVariant("_decode", forward, sizes), AotVariant("_decode_backward", backward, sizes)]
