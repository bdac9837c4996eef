"""Images for training in Triton: from packed, decoded images to the batch, one launch, nothing read on the host.

A program makes BLOCK neighboring pixels of one sample. Of a view's layers it looks, the last one first, at those alone that
its own patch of the canvas touches, and of these only where nothing hides them. Channels last, pixels are put in order
between the threads and leave as whole runs of memory.

Coordinates are float32: every product, sum and quotient is rounded on its own, as the launch forbids fused multiply-adds and
`div_rn` is the exact quotient; double precision would add nothing to that, at 1/64 of the rate on most GPUs. From the
coordinates on all is integers. So each pixel has the bytes of the reference: no floor() is decided by an ulp.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._aot import AotVariant, typed

BLOCK = 256  # pixels a program
LAYER: tl.constexpr = tl.constexpr(8)  # columns of `layers`
GRAY: tl.constexpr = tl.constexpr(0x727272)  # of what no layer covers
FRACTION: tl.constexpr = tl.constexpr(2048)  # places between two pixels, BITS binary digits
BITS: tl.constexpr = tl.constexpr(11)
FAR: tl.constexpr = tl.constexpr(524288.0)  # pixels; coordinates are cut off there
UNIT: tl.constexpr = tl.constexpr(1 << 15)  # a weight or a gain of 1
HUES: tl.constexpr = tl.constexpr(180)
SECTOR: tl.constexpr = tl.constexpr(30)  # of hues, a sixth of the circle


@triton.jit
def _place(pixels):
    """A coordinate in 1 / FRACTION pixels; NaN goes to -FAR."""
    near = tl.minimum(tl.where(pixels > -FAR, pixels, -FAR), FAR)
    return tl.floor(near * FRACTION + 0.5).to(tl.int32)


@triton.jit
def _fixed(value, most):
    """A weight or a gain in units of 1 / UNIT, between 0 and `most`; 0 for NaN."""
    return tl.floor(tl.minimum(tl.where(value > 0.0, value, 0.0), most) * UNIT + 0.5).to(tl.int32)


@triton.jit
def _paint(color, pixels, start, tall, wide, left, top, cover, pitch, cover_pitch, column, row):
    """What a layer shows at pixels of the canvas whose color is still open (below 0); BGR in the low bytes."""
    x, y = column - left, row - top
    seen = (color < 0) & (x >= 0) & (x < wide) & (y >= 0) & (y < tall)
    if cover >= 0:
        seen = seen & (tl.load(pixels + cover + (y * cover_pitch + x), seen, other=0) != 0)
    place = pixels + start + (y * pitch + 3 * x)
    blue = tl.load(place, seen, other=0).to(tl.int32)
    green = tl.load(place + 1, seen, other=0).to(tl.int32)
    red = tl.load(place + 2, seen, other=0).to(tl.int32)
    return tl.where(seen, blue | (green << 8) | (red << 16), color)


@triton.jit
def _blend(here, after, under, across, right, below, shift: tl.constexpr):
    """One channel between four neighbors: below 2^31 until it is rounded."""
    upper = ((here >> shift) & 255) * (FRACTION - right) + ((after >> shift) & 255) * right
    lower = ((under >> shift) & 255) * (FRACTION - right) + ((across >> shift) & 255) * right
    return (upper * (FRACTION - below) + lower * below + FRACTION * FRACTION // 2) >> (2 * BITS)


@triton.jit
def _render_view(pixels, layers, layer_range, m, x, y, inside, BLOCK: tl.constexpr):
    """Blue, green, red of a view, bilinear, at the pixels that are inside."""
    depth = tl.load(m + 6) * x + (tl.load(m + 7) * y + tl.load(m + 8))
    columns = _place(tl.div_rn(tl.load(m) * x + (tl.load(m + 1) * y + tl.load(m + 2)), depth))
    rows = _place(tl.div_rn(tl.load(m + 3) * x + (tl.load(m + 4) * y + tl.load(m + 5)), depth))
    column, row = columns >> BITS, rows >> BITS
    beyond: tl.constexpr = 1 << 30
    west, east = tl.min(tl.where(inside, column, beyond), 0), tl.max(tl.where(inside, column, -beyond), 0) + 1
    north, south = tl.min(tl.where(inside, row, beyond), 0), tl.max(tl.where(inside, row, -beyond), 0) + 1
    here = tl.where(inside, -1, GRAY)
    after, under, across = here, here, here
    first, end = tl.load(layer_range), tl.load(layer_range + 1)
    for k in range(first, end):
        layer = layers + (first + end - 1 - k) * LAYER
        tall, wide = tl.load(layer + 1).to(tl.int32), tl.load(layer + 2).to(tl.int32)
        left, top = tl.load(layer + 3).to(tl.int32), tl.load(layer + 4).to(tl.int32)
        if (left <= east) & (left + wide > west) & (top <= south) & (top + tall > north):
            start, cover, pitch, cover_pitch = tl.load(layer), tl.load(layer + 5), tl.load(layer + 6), tl.load(layer + 7)
            here = _paint(here, pixels, start, tall, wide, left, top, cover, pitch, cover_pitch, column, row)
            after = _paint(after, pixels, start, tall, wide, left, top, cover, pitch, cover_pitch, column + 1, row)
            under = _paint(under, pixels, start, tall, wide, left, top, cover, pitch, cover_pitch, column, row + 1)
            across = _paint(across, pixels, start, tall, wide, left, top, cover, pitch, cover_pitch, column + 1, row + 1)
    here, after = tl.where(here < 0, GRAY, here), tl.where(after < 0, GRAY, after)
    under, across = tl.where(under < 0, GRAY, under), tl.where(across < 0, GRAY, across)
    right, below = columns & (FRACTION - 1), rows & (FRACTION - 1)
    blue = _blend(here, after, under, across, right, below, 0)
    green = _blend(here, after, under, across, right, below, 8)
    return blue, green, _blend(here, after, under, across, right, below, 16)


@triton.jit
def _reciprocal(scale: tl.constexpr, divisor):
    """scale / divisor in 1 / 4096, rounded: never a tie, and float32 is near enough."""
    whole = tl.maximum(divisor, 1).to(tl.float32)
    return (tl.div_rn(tl.full(whole.shape, scale * 4096.0, tl.float32), whole) + 0.5).to(tl.int32)


@triton.jit
def _wrapped(hue):
    return tl.where(hue >= HUES, hue - HUES, hue)


@triton.jit
def _faded(value, product, hue):
    """A channel: value, less value * saturation / 255 times the distance of its hue from the channel's own."""
    away = tl.minimum(tl.maximum(tl.minimum(hue, -hue + 4 * SECTOR), 0), SECTOR)
    return value - (product * away + 255 * SECTOR // 2) // (255 * SECTOR)


@triton.jit
def _recolor(blue, green, red, hue_gain, saturation_gain, value_gain):
    """Hue, saturation and value multiplied by gains in 1 / UNIT, in OpenCV's 8 bits and back (reference.recolor)."""
    bright = tl.maximum(tl.maximum(blue, green), red)
    spread = bright - tl.minimum(tl.minimum(blue, green), red)
    turn = tl.where(bright == green, blue - red + 2 * spread, red - green + 4 * spread)
    turn = tl.where(bright == red, green - blue, turn)
    hue = (turn * _reciprocal(SECTOR, spread) + 2048) >> 12
    hue = _wrapped((tl.where(hue < 0, hue + HUES, hue) * hue_gain) >> 15)
    pure = (spread * _reciprocal(255, bright) + 2048) >> 12
    value = tl.minimum((bright * value_gain) >> 15, 255)
    product = value * tl.minimum((pure * saturation_gain) >> 15, 255)
    blue, green = _faded(value, product, _wrapped(hue + SECTOR)), _faded(value, product, _wrapped(hue + 3 * SECTOR))
    return blue, green, _faded(value, product, _wrapped(hue + 5 * SECTOR))


@triton.jit
def _level(value, kind: tl.constexpr):
    """0..255 as it is stored: itself, or its 255th rounded to the nearest."""
    if kind == tl.uint8:
        return value.to(tl.uint8)
    scaled = tl.div_rn(value.to(tl.float32), tl.full(value.shape, 255.0, tl.float32))
    if kind == tl.bfloat16:  # by hand, as Triton's interpreter would cut off; none of the 256 quotients is a tie
        return ((scaled.to(tl.int32, bitcast=True) + 0x8000) >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return scaled.to(kind)


@triton.jit
def _augment(
    pixels, layers, ranges, matrices, mix_weights, hsv_gains, out, height, width, LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lanes, sample = tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    begin, area = tl.program_id(0) * BLOCK, height * width
    cell = begin + lanes
    x, y = (cell % width).to(tl.float32), (cell // width).to(tl.float32)
    first_weight = _fixed(tl.load(mix_weights + sample), 1.0)
    half = tl.full((BLOCK,), UNIT // 2, tl.int32)
    blue, green, red = half, half, half
    for view in range(tl.where(first_weight == UNIT, 1, 2)):
        weight, number = tl.where(view == 0, first_weight, UNIT - first_weight), 2 * sample + view
        b, g, r = _render_view(pixels, layers, ranges + 2 * number, matrices + 9 * number, x, y, cell < area, BLOCK)
        blue, green, red = blue + b * weight, green + g * weight, red + r * weight
    blue, green, red = blue >> 15, green >> 15, red >> 15
    hue, pure = _fixed(tl.load(hsv_gains + 3 * sample), 2.0), _fixed(tl.load(hsv_gains + 3 * sample + 1), 2.0)
    value = _fixed(tl.load(hsv_gains + 3 * sample + 2), 2.0)
    if (hue != UNIT) | (pure != UNIT) | (value != UNIT):
        blue, green, red = _recolor(blue, green, red, hue, pure, value)
    kind: tl.constexpr = out.dtype.element_ty
    place = out + sample * 3 * area
    if LAST:
        packed = red | (green << 8) | (blue << 16)
        for third in tl.static_range(3):  # of the program's 3 * BLOCK values
            slot = third * BLOCK + lanes
            level = (tl.gather(packed, slot // 3, 0) >> (slot % 3 * 8)) & 255
            target = 3 * begin.to(tl.int64) + slot
            tl.store(place + target, _level(level, kind), target < 3 * area.to(tl.int64))
    else:
        plane = area.to(tl.int64)
        tl.store(place + cell, _level(red, kind), cell < area)
        tl.store(place + plane + cell, _level(green, kind), cell < area)
        tl.store(place + 2 * plane + cell, _level(blue, kind), cell < area)


def augment(
    pixels: Tensor, layers: Tensor, ranges: Tensor, matrices: Tensor, mix_weights: Tensor, hsv_gains: Tensor,
    height: int, width: int, dtype: torch.dtype, channels_last: bool,
) -> Tensor:  # fmt: skip
    """Images [B, 3, height, width], RGB; arguments as in `yolov9k.ops.augment`."""
    tables = [table.contiguous() for table in (pixels, layers, ranges, matrices, mix_weights, hsv_gains)]
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    shape = (len(ranges), 3, height, width)
    images = torch.empty(shape, dtype=dtype, device=pixels.device, memory_format=memory_format)
    if len(ranges):
        with torch.cuda.device_of(images):  # type: ignore[no-untyped-call]
            _augment[(triton.cdiv(height * width, BLOCK), len(ranges))](
                *tables, images, height, width, LAST=channels_last, BLOCK=BLOCK, enable_fp_fusion=False
            )
    return images


def aot_variants() -> list[AotVariant]:
    """Both forms of the output."""
    types = typed("layers ranges", "*i64") | typed("height width", "i32") | {"pixels": "*u8"}
    return [
        AotVariant("_augment", types | {"out": "*bf16"}, {"LAST": True, "BLOCK": 256}, "bf16, channels last", exact=True),
        AotVariant("_augment", types | {"out": "*u8"}, {"LAST": False, "BLOCK": 256}, "uint8, planes", exact=True),
    ]
