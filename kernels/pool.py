"""Pooling in Triton over channels-last maps or slices of their channels, so that no copy stands before or after it.

A program serves PIXELS neighboring pixels of the output and CHANNELS channels. Gradients are gathered: a pixel asks the
windows that cover it, so nothing is added atomically and every run is the same. Bytes an output element: forward the window's
new pixels read and one written (max_pool: and a byte for the place of the maximum); backward the same the other way.

Not an operator: a building block of the plans of `conv_bn_silu`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._aot import AotVariant, typed
from ._operands import as_matrix

PIXELS, CHANNELS = 16, 64


@triton.jit
def _pixels(count, height, width, channels, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Numbers of a program's pixels, their images, rows and columns, its channels, and which of them exist."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image, y, x = pixel // (height * width), pixel // width % height, pixel % width
    return pixel.to(tl.int64), image, y, x, channel, (pixel[:, None] < count) & (channel[None, :] < channels)


@triton.jit
def _at(image, y, x, height, width, pitch, channel):
    """Offsets of pixels (image, y, x) of a map of that height and width."""
    return ((image * height + y) * width + x).to(tl.int64)[:, None] * pitch + channel[None, :]


@triton.jit
def _average(
    source, target, pitch_s, pitch_t, count, height, width, source_height, source_width, channels, shift,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Quarter of the sum of the four source pixels at y + shift, y + shift + 1, those outside being 0."""
    pixel, image, y, x, channel, inside = _pixels(count, height, width, channels, PIXELS, CHANNELS)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for corner in tl.static_range(4):
        row, column = y + shift + corner // 2, x + shift + corner % 2
        there = inside & ((row >= 0) & (row < source_height) & (column >= 0) & (column < source_width))[:, None]
        place = source + _at(image, row, column, source_height, source_width, pitch_s, channel)
        total += tl.load(place, there, other=0.0).to(tl.float32)
    tl.store(target + pixel[:, None] * pitch_t + channel[None, :], total * 0.25, inside)


@triton.jit
def _maximum(
    source, target, places, pitch_s, pitch_t, pitch_p, count, height, width, source_height, source_width, channels, stride,
    padding, KERNEL: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The largest of each window, the first of equal ones, and its place in the window; NaN is larger than all."""
    pixel, image, y, x, channel, inside = _pixels(count, height, width, channels, PIXELS, CHANNELS)
    best = tl.full((PIXELS, CHANNELS), float("-inf"), tl.float32)
    where = tl.full((PIXELS, CHANNELS), -1, tl.int32)
    for cell in tl.static_range(KERNEL * KERNEL):
        row, column = y * stride - padding + cell // KERNEL, x * stride - padding + cell % KERNEL
        there = inside & ((row >= 0) & (row < source_height) & (column >= 0) & (column < source_width))[:, None]
        place = source + _at(image, row, column, source_height, source_width, pitch_s, channel)
        value = tl.load(place, there, other=float("-inf")).to(tl.float32)
        better = there & ((value > best) | (value != value) | (where < 0))
        best = tl.where(better, value, best)
        where = tl.where(better, cell, where)
    tl.store(target + pixel[:, None] * pitch_t + channel[None, :], best, inside)
    tl.store(places + pixel[:, None] * pitch_p + channel[None, :], where.to(tl.uint8), inside)


@triton.jit
def _maximum_gradient(
    grad, places, addend, out, pitch_g, pitch_p, pitch_a, pitch_o, count, height, width, pooled_height, pooled_width, channels,
    stride, padding, KERNEL: tl.constexpr, ADDEND: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """For each pixel the gradients of the windows whose maximum it is, in the windows' order."""
    pixel, image, y, x, channel, inside = _pixels(count, height, width, channels, PIXELS, CHANNELS)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    if ADDEND:
        total += tl.load(addend + pixel[:, None] * pitch_a + channel[None, :], inside, other=0.0).to(tl.float32)
    for cell in tl.static_range(KERNEL * KERNEL):
        row, column = y + padding - cell // KERNEL, x + padding - cell % KERNEL  # the window in which this pixel is `cell`
        there = (row >= 0) & (column >= 0) & (row % stride == 0) & (column % stride == 0)
        row, column = row // stride, column // stride
        there = inside & (there & (row < pooled_height) & (column < pooled_width))[:, None]
        place = _at(image, row, column, pooled_height, pooled_width, pitch_p, channel)
        mine = there & (tl.load(places + place, there, other=255).to(tl.int32) == cell)
        place = _at(image, row, column, pooled_height, pooled_width, pitch_g, channel)
        total += tl.load(grad + place, mine, other=0.0).to(tl.float32)
    tl.store(out + pixel[:, None] * pitch_o + channel[None, :], total, inside)


def _new(like: Tensor, height: int, width: int, dtype: torch.dtype | None = None) -> Tensor:
    shape = (like.shape[0], like.shape[1], height, width)
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last)


def _written(out: Tensor, name: str) -> Tensor:
    matrix = as_matrix(out)
    if matrix.data_ptr() != out.data_ptr():
        raise ValueError(f"pool: {name} must be channels-last or a slice of such a tensor, got strides {list(out.stride())}")
    return matrix


def _grid(matrix: Tensor) -> tuple[int, int]:
    return triton.cdiv(matrix.shape[0], PIXELS), triton.cdiv(matrix.shape[1], CHANNELS)


def _pool_average(source: Tensor, out: Tensor, shift: int) -> Tensor:
    target, read = _written(out, "out"), as_matrix(source)
    if target.numel():
        with torch.cuda.device_of(source):  # type: ignore[no-untyped-call]
            _average[_grid(target)](
                read, target, read.stride(0), target.stride(0), len(target), *out.shape[2:], *source.shape[2:], out.shape[1],
                shift, PIXELS=PIXELS, CHANNELS=CHANNELS,
            )  # fmt: skip
    return out


def avg_pool(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Means of 2x2 windows at stride 1: [B, C, H, W] to [B, C, H - 1, W - 1], into `out` where that is given."""
    return _pool_average(x, _new(x, x.shape[2] - 1, x.shape[3] - 1) if out is None else out, 0)


def avg_pool_backward(grad: Tensor, out: Tensor | None = None) -> Tensor:
    """Gradient [B, C, H, W] of avg_pool's input from that of its output [B, C, H - 1, W - 1]."""
    return _pool_average(grad, _new(grad, grad.shape[2] + 1, grad.shape[3] + 1) if out is None else out, -1)


def max_pool(x: Tensor, kernel: int, stride: int, padding: int, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Maxima of kernel x kernel windows, as torch's max_pool2d, and the place of each in its window, uint8, row by row.

    x [B, C, H, W]. Raises ValueError for windows of more than 15 x 15 or padding of more than half of one.
    """
    if not 1 <= kernel <= 15 or 2 * padding > kernel:
        raise ValueError(f"pool: kernel must be 1 to 15 and padding at most half of it, got {kernel} and {padding}")
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[2:])
    out = _new(x, height, width) if out is None else out
    places = _new(x, height, width, torch.uint8)
    target, marks, read = _written(out, "out"), as_matrix(places), as_matrix(x)
    if target.numel():
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            _maximum[_grid(target)](
                read, target, marks, read.stride(0), target.stride(0), marks.stride(0), len(target), height, width,
                *x.shape[2:], x.shape[1], stride, padding, KERNEL=kernel, PIXELS=PIXELS, CHANNELS=CHANNELS,
            )  # fmt: skip
    return out, places


def max_pool_backward(
    grad: Tensor, places: Tensor, size: tuple[int, int], kernel: int, stride: int, padding: int, out: Tensor | None = None,
    addend: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Gradient [B, C, *size] of max_pool's input from that of its output, plus `addend`, another one of the same input."""
    out = _new(grad, *size) if out is None else out
    target, g, marks = _written(out, "out"), as_matrix(grad), as_matrix(places)
    other = g if addend is None else as_matrix(addend)
    if target.numel():
        with torch.cuda.device_of(grad):  # type: ignore[no-untyped-call]
            _maximum_gradient[_grid(target)](
                g, marks, other, target, g.stride(0), marks.stride(0), other.stride(0), target.stride(0), len(target), *size,
                *grad.shape[2:], grad.shape[1], stride, padding, KERNEL=kernel, ADDEND=addend is not None, PIXELS=PIXELS,
                CHANNELS=CHANNELS,
            )  # fmt: skip
    return out


def aot_variants() -> list[AotVariant]:
    """The average, and the maximum of both windows that models have."""
    types = (
        typed("source target grad addend out", "*bf16")
        | {"places": "*u8"}
        | typed("pitch_s pitch_t pitch_p pitch_g pitch_a pitch_o count height width source_height source_width", "i32")
        | typed("pooled_height pooled_width channels shift stride padding", "i32")
    )
    constants = {"PIXELS": PIXELS, "CHANNELS": CHANNELS, "ADDEND": True}
    return [
        AotVariant("_average", types, constants),
        *(
            AotVariant(kernel, types, constants | {"KERNEL": size}, f"{size}x{size}")
            for kernel in ("_maximum", "_maximum_gradient")
            for size in (3, 5)
        ),
    ]
