"""BatchNorm and SiLU in Triton over channels-last maps: two passes forward, two backward, nothing saved but the input.

A map [B, C, H, W] in channels-last memory is a matrix of B * H * W rows and C columns. Statistics are those of the distance
to the first row, taken a tile at a time and merged by Chan's formula (Chan, Golub, LeVeque 1979), so that a large mean costs
no digits; partial results are merged in a fixed order, so that every run is the same. Bytes an element, of the map's dtype:
forward 2 reads and 1 write, backward 4 and 1.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 1024  # rows that one program reduces
ROWS, COLUMNS = 32, 64  # of a tile


@triton.jit
def _tile(start, rows, channels, block, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Row and column numbers of a tile and whether they are inside the matrix."""
    row = start + tl.arange(0, ROWS)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    return row.to(tl.int64), column, (row[:, None] < rows) & (column[None, :] < channels)


@triton.jit
def _statistics(z, pitch, rows, channels, means, spreads, CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Mean distance to the first row, and sum of squared deviations, of each column over one chunk of rows."""
    chunk, block = tl.program_id(0), tl.program_id(1)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.load(z + column, column < channels, other=0.0).to(tl.float32)
    count = 0.0
    mean = tl.zeros((COLUMNS,), tl.float32)
    spread = tl.zeros((COLUMNS,), tl.float32)
    for start in range(chunk * CHUNK, min(chunk * CHUNK + CHUNK, rows), ROWS):
        row, column, inside = _tile(start, rows, channels, block, ROWS, COLUMNS)
        value = tl.load(z + row[:, None] * pitch + column[None, :], inside, other=0.0).to(tl.float32)
        value = tl.where(inside, value - first[None, :], 0.0)
        more = min(ROWS, rows - start) * 1.0
        tile_mean = tl.sum(value, 0) / more
        away = tl.where(inside, value - tile_mean[None, :], 0.0)
        gap = tile_mean - mean
        total = count + more
        mean += gap * (more / total)
        spread += tl.sum(away * away, 0) + gap * gap * (count * more / total)
        count = total
    tl.store(means + chunk * channels + column, mean, column < channels)
    tl.store(spreads + chunk * channels + column, spread, column < channels)


@triton.jit
def _merge_statistics(
    z, means, spreads, rows, channels, chunks, eps, mean_out, invstd_out, CHUNK: tl.constexpr, COLUMNS: tl.constexpr
):
    """Mean and 1 / sqrt(variance + eps) of each column from those of the chunks."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    mean = tl.zeros((COLUMNS,), tl.float32)
    count = 0.0
    spread = tl.zeros((COLUMNS,), tl.float32)
    for chunk in range(chunks):
        more = min(CHUNK, rows - chunk * CHUNK) * 1.0
        gap = tl.load(means + chunk * channels + column, inside, other=0.0) - mean
        total = count + more
        mean += gap * (more / total)
        spread += tl.load(spreads + chunk * channels + column, inside, other=0.0) + gap * gap * (count * more / total)
        count = total
    tl.store(mean_out + column, tl.load(z + column, inside, other=0.0).to(tl.float32) + mean, inside)
    tl.store(invstd_out + column, 1.0 / tl.sqrt_rn(spread / count + eps), inside)


@triton.jit
def _normalise(
    z, y, pitch_z, pitch_y, rows, channels, gamma, beta, mean, invstd,
    ACTIVATION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, column, inside = _tile(tl.program_id(0) * ROWS, rows, channels, tl.program_id(1), ROWS, COLUMNS)
    real = column < channels
    scale = tl.load(gamma + column, real, other=0.0).to(tl.float32) * tl.load(invstd + column, real, other=0.0)
    centre = tl.load(mean + column, real, other=0.0)
    value = tl.load(z + row[:, None] * pitch_z + column[None, :], inside, other=0.0).to(tl.float32)
    u = (value - centre[None, :]) * scale[None, :] + tl.load(beta + column, real, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION:
        u = u * tl.sigmoid(u)
    tl.store(y + row[:, None] * pitch_y + column[None, :], u, inside)


@triton.jit
def _slope(
    grad, z, pitch_g, pitch_z, row, column, inside, channels, gamma, beta, mean, invstd, ACTIVATION: tl.constexpr
):  # fmt: skip
    """The gradient before the activation, and the normalised value, of one tile; both recomputed from z."""
    real = column < channels
    value = tl.load(z + row[:, None] * pitch_z + column[None, :], inside, other=0.0).to(tl.float32)
    g = tl.load(grad + row[:, None] * pitch_g + column[None, :], inside, other=0.0).to(tl.float32)
    normal = (value - tl.load(mean + column, real, other=0.0)[None, :]) * tl.load(invstd + column, real, other=0.0)[None, :]
    if ACTIVATION:
        scale = tl.load(gamma + column, real, other=0.0).to(tl.float32)
        u = normal * scale[None, :] + tl.load(beta + column, real, other=0.0).to(tl.float32)[None, :]
        s = tl.sigmoid(u)
        g = g * s * (1.0 + u * (1.0 - s))
    return tl.where(inside, g, 0.0), tl.where(inside, normal, 0.0)


@triton.jit
def _reduce_gradient(
    grad, z, pitch_g, pitch_z, rows, channels, gamma, beta, mean, invstd, sums, products,
    ACTIVATION: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Over one chunk of rows, for each column: sum of the gradient, and of its product with the normalised value."""
    chunk, block = tl.program_id(0), tl.program_id(1)
    total = tl.zeros((COLUMNS,), tl.float32)
    product = tl.zeros((COLUMNS,), tl.float32)
    for start in range(chunk * CHUNK, min(chunk * CHUNK + CHUNK, rows), ROWS):
        row, column, inside = _tile(start, rows, channels, block, ROWS, COLUMNS)
        g, normal = _slope(grad, z, pitch_g, pitch_z, row, column, inside, channels, gamma, beta, mean, invstd, ACTIVATION)
        total += tl.sum(g, 0)
        product += tl.sum(g * normal, 0)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    tl.store(sums + chunk * channels + column, total, column < channels)
    tl.store(products + chunk * channels + column, product, column < channels)


@triton.jit
def _spread_gradient(
    grad, z, out, pitch_g, pitch_z, pitch_o, rows, channels, gamma, beta, mean, invstd, total, product,
    TRAINING: tl.constexpr, ACTIVATION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """d loss / d z = gamma / std * (g - mean of g - normalised value * mean of their product)."""
    row, column, inside = _tile(tl.program_id(0) * ROWS, rows, channels, tl.program_id(1), ROWS, COLUMNS)
    real = column < channels
    g, normal = _slope(grad, z, pitch_g, pitch_z, row, column, inside, channels, gamma, beta, mean, invstd, ACTIVATION)
    if TRAINING:
        share = 1.0 / rows
        g -= tl.load(total + column, real, other=0.0)[None, :] * share
        g -= normal * (tl.load(product + column, real, other=0.0) * share)[None, :]
    scale = tl.load(gamma + column, real, other=0.0).to(tl.float32) * tl.load(invstd + column, real, other=0.0)
    tl.store(out + row[:, None] * pitch_o + column[None, :], g * scale[None, :], inside)


def as_matrix(x: Tensor) -> Tensor:
    """A map [B, C, H, W] with neighbouring channels as a matrix [B * H * W, C]; other layouts are copied."""
    rows = x.permute(0, 2, 3, 1)
    pitch, (_, height, width, channels) = x.stride(3), rows.shape
    dense = x.stride(1) == 1 and pitch >= channels
    if not (dense and x.stride(2) == width * pitch and x.stride(0) == height * width * pitch):
        return rows.reshape(-1, channels).contiguous()
    return x.as_strided((rows.numel() // max(channels, 1), channels), (pitch, 1))


def batch_statistics(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps), float32 [C], of a map's channels."""
    matrix = as_matrix(z)
    rows, channels = matrix.shape
    chunks, blocks = triton.cdiv(rows, CHUNK), triton.cdiv(channels, COLUMNS)
    parts = matrix.new_empty((2, chunks, channels), dtype=torch.float32)
    mean, invstd = matrix.new_empty((2, channels), dtype=torch.float32)
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        _statistics[(chunks, blocks)](
            matrix, matrix.stride(0), rows, channels, parts[0], parts[1], CHUNK=CHUNK, ROWS=ROWS, COLUMNS=COLUMNS
        )
        _merge_statistics[(blocks,)](
            matrix, parts[0], parts[1], rows, channels, chunks, eps, mean, invstd, CHUNK=CHUNK, COLUMNS=COLUMNS
        )
    return mean, invstd


def normalise(z: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, invstd: Tensor, activation: bool, y: Tensor) -> None:
    """Write SiLU((z - mean) * invstd * gamma + beta), or that without SiLU, into y.

    z, y [B, C, H, W]; y channels-last, or a slice of channels of a wider channels-last tensor. gamma, beta, mean, invstd [C].
    """
    matrix, out = as_matrix(z), as_matrix(y)
    if out.data_ptr() != y.data_ptr():
        raise ValueError(f"conv_bn_silu: y must be channels-last or a slice of such a tensor, got strides {list(y.stride())}")
    rows, channels = matrix.shape
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        _normalise[(triton.cdiv(rows, ROWS), triton.cdiv(channels, COLUMNS))](
            matrix, out, matrix.stride(0), out.stride(0), rows, channels, gamma, beta, mean, invstd,
            ACTIVATION=activation, ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip


def normalise_backward(
    grad: Tensor, z: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, invstd: Tensor, training: bool, activation: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z (its dtype, channels-last), gamma and beta (float32 [C]) from that of y.

    training: mean and invstd are the batch's own and depend on z. Shapes as in `normalise`.
    """
    g, matrix = as_matrix(grad), as_matrix(z)
    rows, channels = matrix.shape
    chunks, blocks = triton.cdiv(rows, CHUNK), triton.cdiv(channels, COLUMNS)
    parts = matrix.new_empty((2, chunks, channels), dtype=torch.float32)
    grad_z = torch.empty_like(z, memory_format=torch.channels_last)
    out = as_matrix(grad_z)
    common = (rows, channels, gamma, beta, mean, invstd)
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        _reduce_gradient[(chunks, blocks)](
            g, matrix, g.stride(0), matrix.stride(0), *common, parts[0], parts[1],
            ACTIVATION=activation, CHUNK=CHUNK, ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip
        total, product = parts.sum(1)
        _spread_gradient[(triton.cdiv(rows, ROWS), blocks)](
            g, matrix, out, g.stride(0), matrix.stride(0), out.stride(0), *common, total, product,
            TRAINING=training, ACTIVATION=activation, ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip
    return grad_z, product, total
