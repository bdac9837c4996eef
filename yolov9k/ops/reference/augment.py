"""augment in plain torch: the definition. After the coordinates all is integers, so that every backend can be exact."""

from __future__ import annotations

import torch
from torch import Tensor

from yolov9k.common.arrays import FILL

FRACTION = 2048  # places between two pixels: OpenCV has 32
FAR = 2.0**19  # pixels; coordinates are cut off there, and NaN goes to -FAR
UNIT = 1 << 15  # a weight or a gain of 1
HUES, SECTOR = 180, 30  # OpenCV's hue counts to 180, a sixth of it lies between two pure colors


def augment(
    pixels: Tensor, layers: Tensor, ranges: Tensor, matrices: Tensor, mix_weights: Tensor, hsv_gains: Tensor,
    height: int, width: int, dtype: torch.dtype, channels_last: bool,
) -> Tensor:  # fmt: skip
    """Images [B, 3, height, width]; arguments as in `yolov9k.ops.augment`. Tables are read on the host."""
    images = torch.empty((len(ranges), 3, height, width), dtype=torch.uint8, device=pixels.device)
    table, views = layers.tolist(), ranges.tolist()
    for sample, (pairs, weight, gain) in enumerate(zip(views, fixed(mix_weights, 1), fixed(hsv_gains, 2), strict=True)):
        first, second = (
            render_view(pixels, table[start:end], matrix, height, width)
            for (start, end), matrix in zip(pairs, matrices[sample], strict=True)
        )
        mixed = (first * weight + second * (UNIT - weight) + UNIT // 2) >> 15
        images[sample] = recolor(mixed, gain).flip(-1).permute(2, 0, 1)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    result = torch.empty(images.shape, dtype=dtype, device=images.device, memory_format=memory_format)
    return result.copy_(images if dtype == torch.uint8 else images.float() / 255)


def fixed(values: Tensor, most: int) -> Tensor:
    """Weights or gains in units of 1 / UNIT, rounded, between 0 and `most`: int64; 0 for NaN."""
    return (values.nan_to_num(nan=0.0).clamp(0, most) * UNIT + 0.5).floor().long()


def coordinates(matrix: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where on the canvas each pixel's center looks: column and row int64 [height, width], in 1 / FRACTION pixels.

    All in float32, each product and sum rounded on its own (no fused multiply-add), in the order written here.
    """
    x = torch.arange(width, device=matrix.device, dtype=torch.float32)
    y = torch.arange(height, device=matrix.device, dtype=torch.float32)[:, None]
    column, row, depth = (m[0] * x + (m[1] * y + m[2]) for m in matrix)
    places = [(value / depth).nan_to_num(nan=-FAR).clamp(-FAR, FAR) * FRACTION for value in (column, row)]
    return (places[0] + 0.5).floor().long(), (places[1] + 0.5).floor().long()


def render_view(pixels: Tensor, layers: list[list[int]], matrix: Tensor, height: int, width: int) -> Tensor:
    """A canvas of layers seen through a matrix, bilinear: BGR int64 [height, width, 3]."""
    column, row = coordinates(matrix, height, width)
    total = torch.full((height, width, 3), FRACTION * FRACTION // 2, device=pixels.device)
    for below in (0, 1):
        for right in (0, 1):
            weight = _weight(row, below) * _weight(column, right)
            total += weight[..., None] * canvas_color(pixels, layers, column // FRACTION + right, row // FRACTION + below)
    return total // (FRACTION * FRACTION)


def _weight(place: Tensor, after: int) -> Tensor:
    part = place % FRACTION
    return part if after else FRACTION - part


def canvas_color(pixels: Tensor, layers: list[list[int]], column: Tensor, row: Tensor) -> Tensor:
    """The canvas at whole pixels: BGR int64 [..., 3] of the last layer that is opaque there, gray where there is none."""
    color = torch.full((*column.shape, 3), FILL, device=pixels.device)
    for start, tall, wide, left, top, mask, stride, mask_stride in layers:
        x, y = column - left, row - top
        seen = (x >= 0) & (x < wide) & (y >= 0) & (y < tall)
        if tall * wide == 0:
            continue
        x, y = torch.where(seen, x, 0), torch.where(seen, y, 0)
        if mask >= 0:
            seen = seen & (pixels[mask + y * mask_stride + x] != 0)
        found = pixels[start + (y * stride + 3 * x)[..., None] + torch.arange(3, device=pixels.device)]
        color = torch.where(seen[..., None], found.long(), color)
    return color


def recolor(color: Tensor, gain: Tensor) -> Tensor:
    """Hue, saturation and value multiplied by gains int64 [3] in 1 / UNIT; BGR int64 [..., 3] to the same.

    Into 8 bits and back as OpenCV does it (BGR2HSV to the bit, HSV2BGR within one level). Gains of 1 change nothing.
    """
    if bool((gain == UNIT).all()):
        return color
    hue, saturation, value = (part * g >> 15 for part, g in zip(to_hsv(color), gain, strict=True))
    return from_hsv(hue % HUES, saturation.clamp(max=255), value.clamp(max=255))


def to_hsv(color: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """BGR int64 [..., 3] to OpenCV's hue 0..179, saturation and value 0..255, by its reciprocals of 12 binary places."""
    blue, green, red = color.unbind(-1)
    value = color.amax(-1)
    spread = value - color.amin(-1)
    saturation = (spread * _reciprocal(255, value) + 2048) >> 12
    turn = torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    turn = torch.where(value == red, green - blue, turn)
    hue = (turn * _reciprocal(SECTOR, spread) + 2048) >> 12
    return torch.where(hue < 0, hue + HUES, hue), saturation, value


def _reciprocal(scale: int, divisor: Tensor) -> Tensor:
    """scale / divisor in 1 / 4096, rounded: int64; finite where the divisor is 0, as it is multiplied by 0 there."""
    whole = divisor.clamp(min=1)
    return ((scale << 13) + whole) // (2 * whole)


def from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Hue 0..179, saturation, value 0..255 to BGR int64 [..., 3]: the exact value rounded, halves down."""
    channels = []
    for turn in (SECTOR, 3 * SECTOR, 5 * SECTOR):  # blue, green, red
        place = (hue + turn) % HUES
        away = torch.minimum(place, 4 * SECTOR - place).clamp(0, SECTOR)
        channels.append(value - (value * saturation * away + 255 * SECTOR // 2) // (255 * SECTOR))
    return torch.stack(channels, -1)
