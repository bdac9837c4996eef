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

from yolov9k.kernels.conv1x1 import Config, _dot
from yolov9k.kernels.conv_bn_silu import as_matrix

CONFIGS = (Config(128, 64, 32, 4, 3), Config(128, 128, 32, 8, 3), Config(64, 64, 32, 4, 4), Config(64, 32, 32, 4, 4))


@triton.jit
def _convolve(
    x, weight, bias, residual, out, pitch_x, pitch_r, pitch_o, weight_n, weight_k, weight_y, weight_x,
    rows, height, width, source_height, source_width, depth, columns_in_group, stride, padding,
    KERNEL: tl.constexpr, ACTIVATION: tl.constexpr, RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile: ROWS pixels of the output, COLUMNS channels of one group; depth channels of the input a group."""
    group = tl.program_id(2)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    real = column < columns_in_group
    channel = group * columns_in_group + column
    image, y, x_ = row // (height * width), row // width % height, row % width
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tap in tl.static_range(KERNEL * KERNEL):
        sy, sx = y * stride - padding + tap // KERNEL, x_ * stride - padding + tap % KERNEL
        there = (row < rows) & (sy >= 0) & (sy < source_height) & (sx >= 0) & (sx < source_width)
        place = x + ((image * source_height + sy) * source_width + sx).to(tl.int64)[:, None] * pitch_x + group * depth
        taps = weight + channel[None, :] * weight_n + tap // KERNEL * weight_y + tap % KERNEL * weight_x
        for start in range(0, depth, DEPTH):
            k = start + tl.arange(0, DEPTH)
            left = tl.load(place + k[None, :], there[:, None] & (k[None, :] < depth), other=0.0)
            right = tl.load(taps + k[:, None] * weight_k, (k[:, None] < depth) & real[None, :], other=0.0)
            total = _dot(left, right, total)
    total += tl.load(bias + channel, real, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION:
        total = total * tl.sigmoid(total)
    inside = (row[:, None] < rows) & real[None, :]
    if RESIDUAL:
        place = residual + row.to(tl.int64)[:, None] * pitch_r + channel[None, :]
        total += tl.load(place, inside, other=0.0).to(tl.float32)
    tl.store(out + row.to(tl.int64)[:, None] * pitch_o + channel[None, :], total, inside)


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
    slices of channels. Raises ValueError for an out of other memory or shape.
    """
    count, depth, kernel, _ = weight.shape
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[2:])
    shape = (x.shape[0], count, height, width)
    if out is None:
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    source, target = as_matrix(x), as_matrix(out)
    if target.data_ptr() != out.data_ptr() or out.shape != shape:
        raise ValueError(f"conv3x3: out must be channels-last [{', '.join(map(str, shape))}], got {list(out.shape)}, "
                         f"strides {list(out.stride())}")  # fmt: skip
    if not target.numel():
        return out
    config = config or choose(len(target), count // groups)
    added = target if residual is None else as_matrix(residual)
    grid = (triton.cdiv(count // groups, config.columns), triton.cdiv(len(target), config.rows), groups)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _convolve[grid](
            source, weight, bias, added, target, source.stride(0), added.stride(0), target.stride(0), *weight.stride(),
            len(target), height, width, *x.shape[2:], depth, count // groups, stride, padding,
            KERNEL=kernel, ACTIVATION=activation, RESIDUAL=residual is not None, ROWS=config.rows, COLUMNS=config.columns,
            DEPTH=config.depth, num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip
    return out
