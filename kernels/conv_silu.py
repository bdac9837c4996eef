"""Convolutions of small windows in Triton for inference: an implicit product of matrices, bias, SiLU and a residual fused in.

The map is read through its window's offsets, tap by tap, so no unfolded copy exists; the output goes straight into its slice of
channels. 3x3 from 64 channels up is bound by arithmetic and the vendor's library is hard to beat there; here nothing is written
before it is activated. float32 inside.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._aot import AotVariant, typed
from ._operands import as_matrix
from .conv1x1 import Config, _dot

CONFIGS = (
    Config(128, 128, 64, 8, 3),
    Config(128, 64, 64, 4, 3),
    Config(64, 64, 32, 4, 4),
    Config(64, 32, 32, 4, 4),
    Config(128, 16, 32, 4, 4),
)


@triton.jit
def _convolve(
    x, weight, bias, residual, out, pitch_x, pitch_r, pitch_o,
    rows, height, width, source_height, source_width, depth, columns_in_group, stride, padding,
    KERNEL: tl.constexpr, ACTIVATION: tl.constexpr, RESIDUAL: tl.constexpr, UNIT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile: ROWS pixels of the output, COLUMNS channels of one group; depth channels of the input a group.

    Pitches, depth and columns_in_group are in units of UNIT values, from which the compiler sees how wide it may load. Taps and
    channels are one loop, so that the pipeline fills once.
    """
    pitch_x, pitch_r, pitch_o = pitch_x * UNIT, pitch_r * UNIT, pitch_o * UNIT
    depth, columns_in_group = depth * UNIT, columns_in_group * UNIT
    across, group = tl.cdiv(columns_in_group, COLUMNS), tl.program_id(1)
    row = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    real = column < columns_in_group
    channel = group * columns_in_group + column
    top, left = row // width % height * stride - padding, row % width * stride - padding
    pixel = (row // (height * width) * source_height + top) * source_width + left  # of the first tap; may lie outside
    place = x + pixel.to(tl.int64) * pitch_x + group * depth
    chunks = tl.cdiv(depth, DEPTH)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(KERNEL * KERNEL * chunks):
        tap = step // chunks
        k = step % chunks * DEPTH + tl.arange(0, DEPTH)
        dy, dx = tap // KERNEL, tap % KERNEL
        sy, sx = top + dy, left + dx
        there = (row < rows) & (sy >= 0) & (sy < source_height) & (sx >= 0) & (sx < source_width)
        near = place + (dy * source_width + dx) * pitch_x
        pixels = tl.load(near[:, None] + k[None, :], there[:, None] & (k[None, :] < depth), other=0.0)
        taps = weight + (channel * (KERNEL * KERNEL) + tap) * depth
        filters = tl.load(taps[None, :] + k[:, None], (k[:, None] < depth) & real[None, :], other=0.0)
        total = _dot(pixels, filters, total)
    total += tl.load(bias + channel, real, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION:
        total = total * tl.sigmoid(total)
    inside = (row[:, None] < rows) & real[None, :]
    wide = row.to(tl.int64)[:, None]
    if RESIDUAL:
        total += tl.load(residual + wide * pitch_r + channel[None, :], inside, other=0.0).to(tl.float32)
    tl.store(out + wide * pitch_o + channel[None, :], total.to(out.dtype.element_ty), inside)


def choose(rows: int, width: int) -> Config:
    """A tile by shape alone."""
    columns = min(max(triton.next_power_of_2(width), 16), 128)
    return Config(128 if rows >= 128 * 132 else 64, columns, 32, 8 if columns == 128 else 4, 3)


def conv_silu(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, activation: bool,
    out: Tensor | None = None, residual: Tensor | None = None, config: Config | None = None,
) -> Tensor:  # fmt: skip
    """SiLU(conv(x) + bias) + residual, or that without SiLU; no gradient.

    x [B, C, H, W], weight [N, C / groups, k, k] of x's dtype, bias [N], out and residual [B, N, H', W'], channels-last or
    slices of channels; a weight that is not channels-last is copied. Raises ValueError for an out of other memory or shape.
    """
    count, depth, kernel, _ = weight.shape
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[2:])
    shape = (x.shape[0], count, height, width)
    if out is None:
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    source, target = as_matrix(x), as_matrix(out)
    if target.data_ptr() != out.data_ptr() or out.shape != shape:
        raise ValueError(f"conv_silu: out must be channels-last [{', '.join(map(str, shape))}], got {list(out.shape)}, "
                         f"strides {list(out.stride())}")  # fmt: skip
    if not target.numel():
        return out
    config = config or choose(len(target), count // groups)
    added = target if residual is None else as_matrix(residual)
    pitches, sizes = (source.stride(0), added.stride(0), target.stride(0)), (depth, count // groups)
    unit = 1 if any(value % 8 for value in (*pitches, *sizes)) else 8
    grid = (triton.cdiv(sizes[1], config.columns) * triton.cdiv(len(target), config.rows), groups)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _convolve[grid](
            source, weight.contiguous(memory_format=torch.channels_last), bias, added, target,
            *(pitch // unit for pitch in pitches), len(target), height, width, *x.shape[2:], *(size // unit for size in sizes),
            stride, padding, KERNEL=kernel, ACTIVATION=activation, RESIDUAL=residual is not None, UNIT=unit,
            ROWS=config.rows, COLUMNS=config.columns, DEPTH=config.depth, num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip
    return out


def aot_variants() -> list[AotVariant]:
    """3x3 with everything, in two widths."""
    types = (
        typed("x weight residual out", "*bf16")
        | typed("pitch_x pitch_r pitch_o rows height width", "i32")
        | typed("source_height source_width depth columns_in_group stride padding", "i32")
    )
    constants = {"KERNEL": 3, "ACTIVATION": True, "RESIDUAL": True, "UNIT": 8, "ROWS": 128, "DEPTH": 64}
    return [
        AotVariant("_convolve", types, constants | {"COLUMNS": columns}, f"{columns} wide", warps)
        for columns, warps in ((64, 4), (128, 8))
    ]
