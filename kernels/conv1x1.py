"""1x1 convolutions in Triton: products of matrices with what stands before and after them fused in.

A channels-last map [B, C, H, W], or a slice of its channels, is a matrix [B * H * W, C]. Before: the BatchNorm and SiLU of the
layer that wrote the map, so that its activation is never stored. After, forward: bias and SiLU, or the statistics for this
layer's own BatchNorm; after, backward: other gradients of the same map are added, the sum passes back through that layer's SiLU
and into the sums of its BatchNorm's backward. Partial results are merged in a fixed order. float32 inside.

Not an operator: a building block of `conv_bn_silu` and `conv_silu`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._aot import AotVariant, typed
from ._operands import Affine, Epilogue, as_matrix

MOST_ADDENDS = 2


class Config(NamedTuple):
    """A tile: rows, columns, depth of one step; warps and pipeline stages."""

    rows: int = 128
    columns: int = 64
    depth: int = 32
    warps: int = 4
    stages: int = 3


CONFIGS = (
    Config(),
    Config(128, 128, 32, 8, 3),
    Config(64, 64, 64, 4, 4),
    Config(64, 128, 32, 4, 3),
    Config(128, 32, 32, 4, 4),
)
# Of a weight gradient: columns of the gradient, columns of the input, rows of a step.
WEIGHT_CONFIGS = (Config(64, 64, 64, 4, 3), Config(128, 64, 64, 8, 3), Config(64, 128, 64, 8, 3), Config(32, 32, 128, 4, 3))
UPCAST = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")  # the interpreter multiplies bfloat16's bits as integers
PROGRAMS = 264  # that a weight gradient is split into: two a multiprocessor of an H100


@triton.jit
def _prologue(x, column, real, center, scale, shift, active):
    """The layer before, applied to a tile as it is read; rounded as its stored activation would be."""
    u = x.to(tl.float32) - tl.load(center + column, real, other=0.0)[None, :]
    u = u * tl.load(scale + column, real, other=0.0)[None, :] + tl.load(shift + column, real, other=0.0)[None, :]
    silu = tl.load(active + column, real, other=0.0)[None, :] > 0
    return tl.where(silu, u * tl.sigmoid(u), u).to(x.dtype)


@triton.jit
def _dot(left, right, total):
    if UPCAST:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def _added(total, ptr, pitch, row, column, inside):
    return total + tl.load(ptr + row[:, None] * pitch + column[None, :], inside, other=0.0).to(tl.float32)


@triton.jit
def _multiply(
    a, b, out, pitch_a, stride_n, stride_k, pitch_o, rows, width, depth,
    center, scale, shift, active, bias, add1, add2, pitch_1, pitch_2, z, pitch_z, gamma, beta, mean, invstd, parts, tiles,
    PROLOGUE: tl.constexpr, BIAS: tl.constexpr, ADDENDS: tl.constexpr, ACTIVATION: tl.constexpr,
    STATISTICS: tl.constexpr, EPILOGUE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile of out [rows, width] = a [rows, depth] @ b, b's element (k, n) at k * stride_k + n * stride_n."""
    blocks = tl.cdiv(width, COLUMNS)
    tile = tl.program_id(0) // blocks  # neighboring programs read the same rows
    row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    real = column < width
    inside = (row[:, None] < rows) & real[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, depth, DEPTH):
        k = start + tl.arange(0, DEPTH)
        left = tl.load(a + row[:, None] * pitch_a + k[None, :], (row[:, None] < rows) & (k[None, :] < depth), other=0.0)
        if PROLOGUE:
            left = _prologue(left, k, k < depth, center, scale, shift, active)
        right = tl.load(b + k[:, None] * stride_k + column[None, :] * stride_n, (k[:, None] < depth) & real[None, :], other=0.0)
        total = _dot(left, right, total)
    if BIAS:
        total += tl.load(bias + column, real, other=0.0).to(tl.float32)[None, :]
    if ADDENDS > 0:
        total = _added(total, add1, pitch_1, row, column, inside)
    if ADDENDS > 1:
        total = _added(total, add2, pitch_2, row, column, inside)
    place = parts + tile * width + column
    if EPILOGUE:  # `total` is the gradient of this map; on through the activation and into BatchNorm's sums
        normal = tl.load(z + row[:, None] * pitch_z + column[None, :], inside, other=0.0).to(tl.float32)
        normal = (normal - tl.load(mean + column, real, other=0.0)[None, :]) * tl.load(invstd + column, real, other=0.0)[
            None, :
        ]
        if ACTIVATION:
            u = normal * tl.load(gamma + column, real, other=0.0).to(tl.float32)[None, :]
            u += tl.load(beta + column, real, other=0.0).to(tl.float32)[None, :]
            s = tl.sigmoid(u)
            total = total * s * (1.0 + u * (1.0 - s))
        total = tl.where(inside, total, 0.0)
        tl.store(place, tl.sum(total, 0), real)
        tl.store(place + tiles * width, tl.sum(total * normal, 0), real)
    elif ACTIVATION:
        total = total * tl.sigmoid(total)
    rounded = total.to(out.dtype.element_ty)
    tl.store(out + row[:, None] * pitch_o + column[None, :], rounded, inside)
    if STATISTICS:  # of what is stored, as BatchNorm will read it
        more = tl.minimum(ROWS, rows - tile * ROWS) * 1.0
        value = tl.where(inside, rounded.to(tl.float32), 0.0)
        average = tl.sum(value, 0) / more
        away = tl.where(inside, value - average[None, :], 0.0)
        missed = tl.sum(away, 0) / more  # what the first sum lost, where the mean is far greater than the deviation
        tl.store(place, average + missed, real)
        tl.store(place + tiles * width, tl.sum(away * away, 0) - more * missed * missed, real)


@triton.jit
def _weight_gradient(
    grad, x, parts, pitch_g, pitch_x, rows, width, depth, share, center, scale, shift, active,
    PROLOGUE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile of grad [rows, width] transposed @ x [rows, depth], over one share of the rows."""
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.program_id(2) * share
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(first, min(first + share, rows), DEPTH):
        row = start + tl.arange(0, DEPTH)
        there = (row < min(first + share, rows))[:, None]
        row = row.to(tl.int64)[:, None]
        left = tl.load(grad + row * pitch_g + n[None, :], there & (n[None, :] < width), other=0.0)
        right = tl.load(x + row * pitch_x + k[None, :], there & (k[None, :] < depth), other=0.0)
        if PROLOGUE:
            right = tl.where(there, _prologue(right, k, k < depth, center, scale, shift, active), 0.0).to(left.dtype)
        total = _dot(tl.trans(left), right, total)
    place = parts + (tl.program_id(2) * width + n[:, None]) * depth + k[None, :]
    tl.store(place, total, (n[:, None] < width) & (k[None, :] < depth))


def choose(rows: int, width: int) -> Config:
    """A tile by shape alone: no wider than the matrix, and enough of them for a large GPU."""
    columns = min(max(triton.next_power_of_2(width), 16), 128)
    tall = triton.cdiv(rows, 128) * triton.cdiv(width, columns) >= PROGRAMS
    return Config(128 if tall else 64, columns, 32, 8 if tall and columns == 128 else 4, 3)


def _new(like: Tensor, width: int) -> Tensor:
    shape = (like.shape[0], width, like.shape[2], like.shape[3])
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _product(
    x: Tensor, right: Tensor, out: Tensor | None, prologue: Affine | None, bias: Tensor | None, activation: bool,
    addends: Sequence[Tensor], epilogue: Epilogue | None, statistics: bool, config: Config | None,
) -> tuple[Tensor, Tensor | None, int]:  # fmt: skip
    """out = x @ right, right [depth, width]; the result, partial sums and the rows of a tile."""
    depth, width = right.shape
    out = _new(x, width) if out is None else out
    a, o = as_matrix(x), as_matrix(out)
    if o.data_ptr() != out.data_ptr():
        raise ValueError(f"conv1x1: out must be channels-last or a slice of such a tensor, got strides {list(out.stride())}")
    if a.shape[1] != depth or o.shape != (len(a), width):
        raise ValueError(f"conv1x1: out must have {width} channels of {depth}, got {list(out.shape)} of {list(x.shape)}")
    if len(addends) > MOST_ADDENDS:
        raise ValueError(f"conv1x1: addends must be at most {MOST_ADDENDS}, got {len(addends)}")
    config = config or choose(len(a), width)
    tiles = triton.cdiv(len(a), config.rows)
    sums = statistics or epilogue is not None
    parts = a.new_empty((2, tiles, width), dtype=torch.float32) if sums else None
    if len(a) == 0:
        return out, parts, config.rows
    add1, add2 = ([as_matrix(addend) for addend in addends] + [a, a])[:2]
    before = prologue or Affine(a, a, a, a)
    after = epilogue or Epilogue(x, a, a, a, a, activation)
    z = a if epilogue is None else as_matrix(epilogue.z)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _multiply[(triton.cdiv(width, config.columns) * tiles,)](
            a, right, o, a.stride(0), right.stride(1), right.stride(0), o.stride(0), len(a), width, depth,
            *before, a if bias is None else bias, add1, add2, add1.stride(0), add2.stride(0), z, z.stride(0),
            after.gamma, after.beta, after.mean, after.invstd, a if parts is None else parts, tiles,
            PROLOGUE=prologue is not None, BIAS=bias is not None, ADDENDS=len(addends), ACTIVATION=after.activation,
            STATISTICS=statistics, EPILOGUE=epilogue is not None, ROWS=config.rows, COLUMNS=config.columns,
            DEPTH=config.depth, num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip
    return out, parts, config.rows


def forward(
    x: Tensor, weight: Tensor, out: Tensor | None = None, prologue: Affine | None = None, bias: Tensor | None = None,
    activation: bool = False, statistics: bool = False, config: Config | None = None,
) -> tuple[Tensor, Tensor | None, int]:  # fmt: skip
    """prologue(x) @ weight transposed, with bias and SiLU where asked.

    x [B, K, H, W], weight [N, K] or [N, K, 1, 1] in x's dtype, out [B, N, H, W]: channels-last or slices of channels.
    statistics: also mean and sum of squared deviations of each tile of rows, float32 [2, tiles, N], and the rows of a tile
    (`conv_bn_silu.merge_statistics`). Raises ValueError for an out of other memory or shape.
    """
    right = weight.flatten(1).t()
    return _product(x, right, out, prologue, bias, activation, (), None, statistics, config)


def input_gradient(
    grad: Tensor, weight: Tensor, out: Tensor | None = None, addends: Sequence[Tensor] = (), epilogue: Epilogue | None = None,
    config: Config | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """grad @ weight + addends; with an epilogue on through the activation of the layer that wrote the map.

    grad [B, N, H, W], weight [N, K] in grad's dtype, out and addends (at most two) [B, K, H, W]. With an epilogue: also
    sums of each tile's result, and of its product with the normalized map, float32 [2, tiles, K].
    """
    result, parts, _ = _product(grad, weight.flatten(1), out, None, None, False, addends, epilogue, False, config)
    return result, parts


def weight_gradient(grad: Tensor, x: Tensor, prologue: Affine | None = None, config: Config | None = None) -> Tensor:
    """grad transposed @ prologue(x): float32 [N, K] of grad [B, N, H, W] and x [B, K, H, W]."""
    config, g, a = config or WEIGHT_CONFIGS[0], as_matrix(grad), as_matrix(x)
    (rows, width), depth = g.shape, a.shape[1]
    tiles = triton.cdiv(width, config.rows) * triton.cdiv(depth, config.columns)
    shares = max(1, min(triton.cdiv(PROGRAMS, tiles), triton.cdiv(rows, 4 * config.depth)))
    share = triton.cdiv(triton.cdiv(rows, shares), config.depth) * config.depth
    if rows == 0:
        return g.new_zeros((width, depth), dtype=torch.float32)
    shares = triton.cdiv(rows, share)
    parts = g.new_empty((shares, width, depth), dtype=torch.float32)
    with torch.cuda.device_of(grad):  # type: ignore[no-untyped-call]
        _weight_gradient[(triton.cdiv(width, config.rows), triton.cdiv(depth, config.columns), shares)](
            g, a, parts, g.stride(0), a.stride(0), rows, width, depth, share, *(prologue or Affine(a, a, a, a)),
            PROLOGUE=prologue is not None, ROWS=config.rows, COLUMNS=config.columns, DEPTH=config.depth,
            num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip
    return parts.sum(0) if shares > 1 else parts[0]


def aot_variants() -> list[AotVariant]:
    """The product with what can stand around it, in two widths, and the weight's gradient."""
    types = typed("a b out add1 add2 z grad x", "*bf16") | typed(
        "pitch_a stride_n stride_k pitch_o rows width depth pitch_1 pitch_2 pitch_z tiles pitch_g pitch_x share", "i32"
    )
    plain = {"PROLOGUE": False, "BIAS": False, "ADDENDS": 0, "ACTIVATION": False, "STATISTICS": False, "EPILOGUE": False}
    plain |= {"ROWS": 128, "COLUMNS": 64, "DEPTH": 32}
    around: dict[str, dict[str, object]] = {
        "plain": {},
        "prologue, statistics": {"PROLOGUE": True, "STATISTICS": True},
        "bias, SiLU": {"BIAS": True, "ACTIVATION": True},
        "epilogue, two addends": {"EPILOGUE": True, "ACTIVATION": True, "ADDENDS": 2},
    }
    return [
        *(AotVariant("_multiply", types, plain | flags, label) for label, flags in around.items()),
        *(
            AotVariant("_multiply", types, plain | flags | {"COLUMNS": 128}, f"{label}, 128 wide", 8)
            for label, flags in around.items()
        ),
        AotVariant("_weight_gradient", types, {"PROLOGUE": True, "ROWS": 64, "COLUMNS": 64, "DEPTH": 64}),
    ]
