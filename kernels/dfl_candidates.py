"""DFL decode of the candidates alone, in Triton: anchors with a class above the threshold, side by side in their order.

How many a tile has, where each tile's begin (a sum over the tiles before, in a fixed order), and the decode of those anchors
into their places: two launches a level and one for the sum. What is no candidate is never written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._aot import AotVariant, typed
from .dfl_decode import _expectation

BLOCK = 64  # anchors a program
ROWS = 16  # classes a step


@triton.jit
def _chosen(ptr, offsets, mask, c, classes, reg_max, threshold, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Whether an anchor's best probability is above the threshold; NaN is not."""
    best = tl.full((BLOCK,), -1.0, tl.float32)
    for start in range(0, classes, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row[:, None] < classes) & mask[None, :]
        logit = tl.load(ptr + offsets[None, :] + (4 * reg_max + row)[:, None] * c, inside, other=float("-inf"))
        score = tl.sigmoid(logit.to(tl.float32)).to(ptr.dtype.element_ty).to(tl.float32)  # as it will be stored
        best = tl.maximum(best, tl.max(tl.where(score == score, score, -1.0), 0))
    return mask & (best > threshold)


@triton.jit
def _count(
    ptr, tallies, first_tile, tiles, anchors, width, b, c, h, w, classes, reg_max, threshold,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    cell, image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    offsets = image * b + cell // width * h + cell % width * w
    chosen = _chosen(ptr, offsets, cell < anchors, c, classes, reg_max, threshold, ROWS, BLOCK)
    tl.store(tallies + image * tiles + first_tile + tl.program_id(0), tl.sum(chosen.to(tl.int32), 0))


@triton.jit
def _write(
    ptr, tallies, out, places, first, first_tile, tiles, total, anchors, width, b, c, h, w, pixels, classes, reg_max, threshold,
    BINS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Decode a tile's candidates; `tallies` are sums over all tiles up to each."""
    tile = tl.program_id(0)
    cell, image = tile * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    mask = cell < anchors
    y, x = cell // width, cell % width
    offsets = image * b + y * h + x * w
    chosen = _chosen(ptr, offsets, mask, c, classes, reg_max, threshold, ROWS, BLOCK)
    some = tl.sum(chosen.to(tl.int32), 0)
    if some > 0:
        before = tl.load(tallies + image * tiles + first_tile + tile) - some
        slot = before + tl.cumsum(chosen.to(tl.int32), 0) - 1
        left = _expectation(ptr, offsets, mask, c, 0, reg_max, BINS)
        top = _expectation(ptr, offsets, mask, c, 1, reg_max, BINS)
        right = _expectation(ptr, offsets, mask, c, 2, reg_max, BINS)
        bottom = _expectation(ptr, offsets, mask, c, 3, reg_max, BINS)
        place = out + image * (4 + classes) * total + slot
        tl.store(place, (x.to(tl.float32) + 0.5 + (right - left) / 2) * pixels, chosen)
        tl.store(place + total, (y.to(tl.float32) + 0.5 + (bottom - top) / 2) * pixels, chosen)
        tl.store(place + 2 * total, (left + right) * pixels, chosen)
        tl.store(place + 3 * total, (top + bottom) * pixels, chosen)
        tl.store(places + image * total + slot, first + cell, chosen)
        for start in range(0, classes, ROWS):
            row = start + tl.arange(0, ROWS)
            inside = (row[:, None] < classes) & chosen[None, :]
            logit = tl.load(ptr + offsets[None, :] + (4 * reg_max + row)[:, None] * c, inside, other=0.0)
            tl.store(place[None, :] + (4 + row)[:, None] * total, tl.sigmoid(logit.to(tl.float32)), inside)


def dfl_candidates(
    maps: Sequence[Tensor], strides: Sequence[int], reg_max: int, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction [B, 4 + nc, A] of the candidates, their anchors int64 [B, A], counts int64 [B]; what is past counts is unset.

    Arguments as in `yolov9k.ops.dfl_candidates`.
    """
    batch, channels = maps[0].shape[:2]
    classes, sizes = channels - 4 * reg_max, [level.shape[2] * level.shape[3] for level in maps]
    total, tiles = sum(sizes), [triton.cdiv(size, BLOCK) for size in sizes]
    prediction = maps[0].new_empty((batch, 4 + classes, total))
    places = maps[0].new_empty((batch, total), dtype=torch.int64)
    tallies = maps[0].new_zeros((batch, max(sum(tiles), 1)), dtype=torch.int32)
    levels = [(level, size, count) for level, size, count in zip(maps, sizes, tiles, strict=True)]
    with torch.cuda.device_of(maps[0]):  # type: ignore[no-untyped-call]
        first_tile = 0
        for level, size, count in levels:
            if level.numel():
                _count[(count, batch)](
                    level, tallies, first_tile, tallies.shape[1], size, level.shape[3], *level.stride(), classes, reg_max,
                    threshold, ROWS=ROWS, BLOCK=BLOCK,
                )  # fmt: skip
            first_tile += count
        sums = tallies.cumsum(1, dtype=torch.int32)
        first = first_tile = 0
        for (level, size, count), pixels in zip(levels, strides, strict=True):
            if level.numel():
                _write[(count, batch)](
                    level, sums, prediction, places, first, first_tile, sums.shape[1], total, size, level.shape[3],
                    *level.stride(), float(pixels), classes, reg_max, threshold, BINS=triton.next_power_of_2(reg_max),
                    ROWS=ROWS, BLOCK=BLOCK,
                )  # fmt: skip
            first, first_tile = first + size, first_tile + count
    return prediction, places, sums[:, -1].long()


def aot_variants() -> list[AotVariant]:
    """The two launches."""
    types = typed("ptr out", "*bf16") | {"tallies": "*i32", "places": "*i64", "pixels": "fp32", "threshold": "fp32"}
    types |= typed("first first_tile tiles total anchors width b c h w classes reg_max", "i32")
    return [AotVariant(kernel, types, {"BINS": 16, "ROWS": 16, "BLOCK": 64}) for kernel in ("_count", "_write")]
