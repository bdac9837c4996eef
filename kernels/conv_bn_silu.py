"""BatchNorm and SiLU in Triton over channels-last maps: two passes forward, two backward, nothing saved but the input.

A map [B, C, H, W] in channels-last memory is a matrix of B * H * W rows and C columns. Statistics are those of the distance
to the first row, taken a tile at a time and merged by Chan's formula (Chan, Golub, LeVeque 1979), so that a large mean costs
no digits; partial results are merged in a fixed order, so that every run is the same. Bytes an element, of the map's dtype:
forward 2 reads and 1 write, backward 4 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._aot import AotVariant, typed
from ._operands import Deferred, Norm, Running, as_matrix

CHUNK = 1024  # rows that one program reduces
ROWS, COLUMNS = 32, 64  # of a tile
MOST_SOURCES = 3  # gradients that are added on the way


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
    first, parts, kind_stride, tile_stride, tiles, tile_rows, rows, channels, eps, momentum, out, out_stride,
    running_mean, running_var, batches, gamma, beta, affine, pitch, active,
    FIRST: tl.constexpr, RUNNING: tl.constexpr, AFFINE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / sqrt(variance + eps) of each column from those of its tiles of rows; moves the running statistics."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    mean = tl.zeros((COLUMNS,), tl.float32)
    count = 0.0
    spread = tl.zeros((COLUMNS,), tl.float32)
    for tile in range(tiles):
        more = min(tile_rows, rows - tile * tile_rows) * 1.0
        place = parts + tile * tile_stride + column
        gap = tl.load(place, inside, other=0.0) - mean
        total = count + more
        mean += gap * (more / total)
        spread += tl.load(place + kind_stride, inside, other=0.0) + gap * gap * (count * more / total)
        count = total
    if FIRST:
        mean += tl.load(first + column, inside, other=0.0).to(tl.float32)
    tl.store(out + column, mean, inside)
    invstd = 1.0 / tl.sqrt_rn(spread / count + eps)
    tl.store(out + out_stride + column, invstd, inside)
    if AFFINE:  # rows of a table: center, scale, shift, whether SiLU follows
        tl.store(affine + column, mean, inside)
        tl.store(affine + pitch + column, tl.load(gamma + column, inside, other=0.0).to(tl.float32) * invstd, inside)
        tl.store(affine + 2 * pitch + column, tl.load(beta + column, inside, other=0.0).to(tl.float32), inside)
        tl.store(affine + 3 * pitch + column, tl.zeros((COLUMNS,), tl.float32) + active, inside)
    if RUNNING:  # the variance enters unbiased, as in torch's BatchNorm
        old = tl.load(running_mean + column, inside, other=0.0).to(tl.float32)
        tl.store(running_mean + column, old + momentum * (mean - old), inside)
        old = tl.load(running_var + column, inside, other=0.0).to(tl.float32)
        tl.store(running_var + column, old + momentum * (spread / (count - 1.0) - old), inside)
        if tl.program_id(0) == 0:
            tl.store(batches, tl.load(batches) + 1)


@triton.jit
def _normal(z, pitch, row, column, inside, real, mean, invstd):
    """The normalized value of one tile."""
    value = tl.load(z + row[:, None] * pitch + column[None, :], inside, other=0.0).to(tl.float32)
    centered = value - tl.load(mean + column, real, other=0.0)[None, :]
    return tl.where(inside, centered * tl.load(invstd + column, real, other=0.0)[None, :], 0.0)


@triton.jit
def _scaled(normal, column, real, gamma, beta):
    scale = tl.load(gamma + column, real, other=0.0).to(tl.float32)
    return normal * scale[None, :] + tl.load(beta + column, real, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _normalize(
    z, z2, residual, y, pitch_z, pitch_z2, pitch_r, pitch_y, rows, channels,
    gamma, beta, mean, invstd, gamma2, beta2, mean2, invstd2,
    DUAL: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, column, inside = _tile(tl.program_id(0) * ROWS, rows, channels, tl.program_id(1), ROWS, COLUMNS)
    real = column < channels
    u = _scaled(_normal(z, pitch_z, row, column, inside, real, mean, invstd), column, real, gamma, beta)
    if DUAL:
        u += _scaled(_normal(z2, pitch_z2, row, column, inside, real, mean2, invstd2), column, real, gamma2, beta2)
    if ACTIVATION:
        u = u * tl.sigmoid(u)
    if RESIDUAL:
        u += tl.load(residual + row[:, None] * pitch_r + column[None, :], inside, other=0.0).to(tl.float32)
    tl.store(y + row[:, None] * pitch_y + column[None, :], u, inside)


@triton.jit
def _bn_silu_backward_gradient(
    grad, grad2, grad3, pitch_g, pitch_g2, pitch_g3, row, column, inside, real, normal, normal2, gamma, beta, gamma2, beta2,
    SOURCES: tl.constexpr, DUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """The gradient before the activation of one tile: the sum of its sources, times SiLU's derivative."""
    g = tl.load(grad + row[:, None] * pitch_g + column[None, :], inside, other=0.0).to(tl.float32)
    if SOURCES > 1:
        g += tl.load(grad2 + row[:, None] * pitch_g2 + column[None, :], inside, other=0.0).to(tl.float32)
    if SOURCES > 2:
        g += tl.load(grad3 + row[:, None] * pitch_g3 + column[None, :], inside, other=0.0).to(tl.float32)
    if ACTIVATION:
        u = _scaled(normal, column, real, gamma, beta)
        if DUAL:
            u += _scaled(normal2, column, real, gamma2, beta2)
        s = tl.sigmoid(u)
        g = g * s * (1.0 + u * (1.0 - s))
    return tl.where(inside, g, 0.0)


@triton.jit
def _bn_silu_backward_reduce(
    grad, grad2, grad3, z, z2, pitch_g, pitch_g2, pitch_g3, pitch_z, pitch_z2, rows, channels,
    gamma, beta, mean, invstd, gamma2, beta2, mean2, invstd2, parts,
    SOURCES: tl.constexpr, DUAL: tl.constexpr, ACTIVATION: tl.constexpr,
    CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Over one chunk of rows, for each column: sum of the gradient, and of its product with each normalized value."""
    chunk, block, chunks = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    total = tl.zeros((COLUMNS,), tl.float32)
    product = tl.zeros((COLUMNS,), tl.float32)
    product2 = tl.zeros((COLUMNS,), tl.float32)
    for start in range(chunk * CHUNK, min(chunk * CHUNK + CHUNK, rows), ROWS):
        row, column, inside = _tile(start, rows, channels, block, ROWS, COLUMNS)
        real = column < channels
        normal = _normal(z, pitch_z, row, column, inside, real, mean, invstd)
        normal2 = normal
        if DUAL:
            normal2 = _normal(z2, pitch_z2, row, column, inside, real, mean2, invstd2)
        g = _bn_silu_backward_gradient(
            grad, grad2, grad3, pitch_g, pitch_g2, pitch_g3, row, column, inside, real, normal, normal2,
            gamma, beta, gamma2, beta2, SOURCES, DUAL, ACTIVATION,
        )  # fmt: skip
        total += tl.sum(g, 0)
        product += tl.sum(g * normal, 0)
        if DUAL:
            product2 += tl.sum(g * normal2, 0)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    place = parts + chunk * channels + column
    tl.store(place, total, column < channels)
    tl.store(place + chunks * channels, product, column < channels)
    if DUAL:
        tl.store(place + 2 * chunks * channels, product2, column < channels)


@triton.jit
def _applied(g, normal, out, pitch, row, column, inside, real, rows, gamma, invstd, total, product, TRAINING: tl.constexpr):
    """d loss / d z = gamma / std * (g - mean of g - normalized value * mean of their product)."""
    if TRAINING:
        share = 1.0 / rows
        g -= tl.load(total + column, real, other=0.0)[None, :] * share
        g -= normal * (tl.load(product + column, real, other=0.0) * share)[None, :]
    scale = tl.load(gamma + column, real, other=0.0).to(tl.float32) * tl.load(invstd + column, real, other=0.0)
    tl.store(out + row[:, None] * pitch + column[None, :], g * scale[None, :], inside)


@triton.jit
def _bn_silu_backward_apply(
    grad, grad2, grad3, z, z2, out, out2, pitch_g, pitch_g2, pitch_g3, pitch_z, pitch_z2, pitch_o, pitch_o2, rows, channels,
    count, gamma, beta, mean, invstd, gamma2, beta2, mean2, invstd2, sums,
    SOURCES: tl.constexpr, DUAL: tl.constexpr, TRAINING: tl.constexpr, ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient of z, and of z2; sums [2 or 3, C] of all `count` rows, which may lie on several devices."""
    row, column, inside = _tile(tl.program_id(0) * ROWS, rows, channels, tl.program_id(1), ROWS, COLUMNS)
    real = column < channels
    normal = _normal(z, pitch_z, row, column, inside, real, mean, invstd)
    normal2 = normal
    if DUAL:
        normal2 = _normal(z2, pitch_z2, row, column, inside, real, mean2, invstd2)
    g = _bn_silu_backward_gradient(
        grad, grad2, grad3, pitch_g, pitch_g2, pitch_g3, row, column, inside, real, normal, normal2,
        gamma, beta, gamma2, beta2, SOURCES, DUAL, ACTIVATION,
    )  # fmt: skip
    _applied(g, normal, out, pitch_o, row, column, inside, real, count, gamma, invstd, sums, sums + channels, TRAINING)
    if DUAL:
        product = sums + 2 * channels
        _applied(g, normal2, out2, pitch_o2, row, column, inside, real, count, gamma2, invstd2, sums, product, TRAINING)


def partial_statistics(z: Tensor) -> Tensor:
    """For each CHUNK rows of a map: mean distance to the map's first row and sum of squared deviations, float32 [2, n, C]."""
    matrix = as_matrix(z)
    rows, channels = matrix.shape
    chunks = triton.cdiv(rows, CHUNK)
    parts = matrix.new_empty((2, chunks, channels), dtype=torch.float32)
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        _statistics[(chunks, triton.cdiv(channels, COLUMNS))](
            matrix, matrix.stride(0), rows, channels, parts[0], parts[1], CHUNK=CHUNK, ROWS=ROWS, COLUMNS=COLUMNS
        )
    return parts


def merge_statistics(
    parts: Tensor, rows: int, tile_rows: int, eps: float, first: Tensor | None, running: Running | None, out: Tensor,
    deferred: Deferred | None = None,
) -> None:  # fmt: skip
    """Write mean and 1 / sqrt(variance + eps) of each column to `out` float32 [2, C]; move the running statistics.

    parts [2, tiles, C]: a tile's mean, of the distance to `first` [C] where that is given, and sum of squared deviations.
    """
    _, tiles, channels = parts.shape
    moved = running or Running(out, out, out, 0.0)
    later = deferred or Deferred(out, out, out, False)
    with torch.cuda.device_of(parts):  # type: ignore[no-untyped-call]
        _merge_statistics[(triton.cdiv(channels, COLUMNS),)](
            parts if first is None else first, parts, parts.stride(0), parts.stride(1), tiles, tile_rows, rows, channels, eps,
            moved.momentum, out, out.stride(0), moved.mean, moved.var, moved.batches, later.gamma, later.beta, later.table,
            later.table.stride(0), float(later.activation),
            FIRST=first is not None, RUNNING=running is not None, AFFINE=deferred is not None, COLUMNS=COLUMNS,
        )  # fmt: skip


def batch_statistics(z: Tensor, eps: float, running: Running | None = None) -> Tensor:
    """Mean and 1 / sqrt(variance + eps), float32 [2, C], of a map's channels."""
    matrix = as_matrix(z)
    out = matrix.new_empty((2, matrix.shape[1]), dtype=torch.float32)
    merge_statistics(partial_statistics(z), len(matrix), CHUNK, eps, matrix[0], running, out)
    return out


def normalize(z: Sequence[Tensor], norms: Sequence[Norm], activation: bool, y: Tensor, residual: Tensor | None = None) -> None:
    """Write SiLU(sum of the BatchNorms of one or two maps z) + residual, or that without SiLU, into y.

    z, y, residual [B, C, H, W]; y channels-last, or a slice of channels of a wider channels-last tensor.
    Raises ValueError for a y of other memory.
    """
    first, second, out = as_matrix(z[0]), as_matrix(z[-1]), as_matrix(y)
    if out.data_ptr() != y.data_ptr():
        raise ValueError(f"conv_bn_silu: y must be channels-last or a slice of such a tensor, got strides {list(y.stride())}")
    added = first if residual is None else as_matrix(residual)
    rows, channels = first.shape
    with torch.cuda.device_of(y):  # type: ignore[no-untyped-call]
        _normalize[(triton.cdiv(rows, ROWS), triton.cdiv(channels, COLUMNS))](
            first, second, added, out, first.stride(0), second.stride(0), added.stride(0), out.stride(0), rows, channels,
            *norms[0], *norms[-1], DUAL=len(z) > 1, RESIDUAL=residual is not None, ACTIVATION=activation,
            ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip


def bn_silu_backward_reduce(grads: Sequence[Tensor], z: Sequence[Tensor], norms: Sequence[Norm], activation: bool) -> Tensor:
    """Over all rows: sum of the gradient before the activation, and of its product with each normalized map.

    grads: one to three maps [B, C, H, W] whose sum is the gradient of what `normalize` wrote. Returns float32 [1 + len(z), C]:
    the gradient of beta, then of each gamma.
    """
    sources, (first, second) = _sources(grads), (as_matrix(z[0]), as_matrix(z[-1]))
    rows, channels = first.shape
    chunks = triton.cdiv(rows, CHUNK)
    parts = first.new_empty((1 + len(z), chunks, channels), dtype=torch.float32)
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
        _bn_silu_backward_reduce[(chunks, triton.cdiv(channels, COLUMNS))](
            *sources, first, second, *(m.stride(0) for m in (*sources, first, second)), rows, channels,
            *norms[0], *norms[-1], parts, SOURCES=len(grads), DUAL=len(z) > 1, ACTIVATION=activation,
            CHUNK=CHUNK, ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip
    return parts.sum(1)


def bn_silu_backward_apply(
    grads: Sequence[Tensor], z: Sequence[Tensor], norms: Sequence[Norm], activation: bool, sums: Tensor | None,
    out: Sequence[Tensor], count: int = 0,
) -> None:  # fmt: skip
    """Write the gradient of each map z into `out`; arguments as in `bn_silu_backward_reduce`, whose result is `sums`.

    sums None: mean and invstd are the running ones and depend on no z. count: rows that the sums are of, this map's by default.
    Raises ValueError for an out of other memory.
    """
    sources, (first, second) = _sources(grads), (as_matrix(z[0]), as_matrix(z[-1]))
    results = (as_matrix(out[0]), as_matrix(out[-1]))
    for result, given in zip(results, (out[0], out[-1]), strict=True):
        if result.data_ptr() != given.data_ptr():
            raise ValueError(f"conv_bn_silu: out must be channels-last or a slice of it, got strides {list(given.stride())}")
    rows, channels = first.shape
    matrices = (*sources, first, second, *results)
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
        _bn_silu_backward_apply[(triton.cdiv(rows, ROWS), triton.cdiv(channels, COLUMNS))](
            *matrices, *(m.stride(0) for m in matrices), rows, channels, count or rows, *norms[0], *norms[-1],
            norms[0].mean if sums is None else sums, SOURCES=len(grads), DUAL=len(z) > 1, TRAINING=sums is not None,
            ACTIVATION=activation, ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip


def _sources(grads: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """One to three gradients as three matrices; what is not there is not read."""
    if not 1 <= len(grads) <= MOST_SOURCES:
        raise ValueError(f"conv_bn_silu: gradients must be one to {MOST_SOURCES} maps, got {len(grads)}")
    matrices = [as_matrix(grad) for grad in grads]
    first, second, third = (matrices + matrices[:1] * 2)[:3]
    return first, second, third


def aot_variants() -> list[AotVariant]:
    """Every kernel; those that can serve two BatchNorms at once in both forms."""
    types = (
        typed("first z z2 y grad grad2 grad3 out2 residual", "*bf16")
        | typed("eps momentum active", "fp32")
        | {"batches": "*i64"}
        | typed("pitch_z pitch_z2 pitch_y pitch_r pitch_g pitch_g2 pitch_g3 pitch_o pitch_o2", "i32")
        | typed("pitch rows channels count tiles tile_rows kind_stride tile_stride out_stride", "i32")
    )
    one: dict[str, object] = {"CHUNK": CHUNK, "ROWS": ROWS, "COLUMNS": COLUMNS, "SOURCES": 1, "DUAL": False}
    one |= dict.fromkeys(("ACTIVATION", "TRAINING", "FIRST", "RUNNING", "AFFINE", "RESIDUAL"), True)
    dual = one | {"DUAL": True, "RESIDUAL": False, "SOURCES": 3}
    return [
        AotVariant("_statistics", types, one),
        AotVariant("_merge_statistics", types, one),
        *(
            AotVariant(kernel, types | {"out": "*bf16"}, constants, label)
            for kernel in ("_normalize", "_bn_silu_backward_reduce", "_bn_silu_backward_apply")
            for constants, label in ((one, ""), (dual, "dual"))
        ),
    ]
