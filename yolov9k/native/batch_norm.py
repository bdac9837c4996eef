"""BatchNorm and SiLU of csrc/ on the CPU, over maps and slices of maps, forward and backward.

A map is [B, C, H, W] in channels-last memory, float32 or bfloat16, or a slice of such a map's channels. Norms are gamma, beta
[C] of any floating dtype, mean and 1 / deviation, float64 [C]. Everything here raises ValueError or TypeError that names the
argument. Sums are kept in double and do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yolov9k.common.checks import expect
from yolov9k.native.module import DTYPES, call, check, place

_CPU = torch.device("cpu")
_NONE = (0, 0)  # no map
MOST_MAPS = 2  # that are added
_NORM = (("gamma", torch.float32), ("beta", torch.float32), ("mean", torch.float64), ("invstd", torch.float64))
_SETTLED = ("mean", "spread", "found", "running_mean", "running_var", "batches", "gamma", "beta")


def bn_statistics(z: Tensor) -> Tensor:
    """Mean and sum of squared deviations from it by channel, float64 [2, C], of a map."""
    op = "bn_statistics"
    shape = _shape(op, z)
    found = torch.empty((2, z.shape[1]), dtype=torch.float64)
    mean = found.data_ptr()
    call(op, _CPU, {**shape, "z": _rows(op, "z", z, z), "mean": mean, "spread": mean + 8 * z.shape[1]})
    return found


def bn_settle(
    mean: Tensor, spread: Tensor, rows: int, eps: float, found: Tensor, running: Any = None, deferred: Any = None
) -> None:
    """From `bn_statistics` of `rows` pixels, float64 [C] each, to what normalizes: found, float64 [2, C].

    running: mean, var [C], int64 batches and momentum, moved by the batch; the variance enters unbiased. deferred: gamma, beta,
    table and activation; the table, float64 [4, C], is then written for `bn_apply_table`.
    """
    op, width = "bn_settle", mean.numel()
    expect(rows > 1, op, "rows", "more than one", rows)
    fits = found.shape == (2, width) and found.is_contiguous() and found.dtype == torch.float64
    expect(fits, op, "found", f"contiguous, float64 [2, {width}]", f"{found.dtype} {list(found.shape)}")
    addresses = {"mean": _vector(op, "mean", mean, width, torch.float64), "found": found}
    addresses |= {"spread": _vector(op, "spread", spread, width, torch.float64)}
    if running is not None:
        addresses["running_mean"] = _vector(op, "running.mean", running.mean, width, torch.float32)
        addresses["running_var"] = _vector(op, "running.var", running.var, width, torch.float32)
        counts = running.batches.dtype == torch.int64 and running.batches.is_cpu and running.batches.numel() == 1
        expect(counts, op, "running.batches", "one int64 number on the CPU", f"{running.batches.dtype}")
        addresses["batches"] = running.batches
    if deferred is not None:
        addresses["gamma"] = _vector(op, "gamma", deferred.gamma, width, torch.float32)
        addresses["beta"] = _vector(op, "beta", deferred.beta, width, torch.float32)
    form = {"dtype": 0, "rows": rows, "channels": width, "eps": eps, "momentum": running.momentum if running else 0.0}
    table = (0,) * 4 if deferred is None else _table(op, width, deferred.table)
    form |= {"active": deferred is not None and deferred.activation, "table": table}
    call(op, _CPU, {**dict.fromkeys(_SETTLED, 0), **{name: t.data_ptr() for name, t in addresses.items()}, **form})
    if running is not None and running.mean.dtype != torch.float32:  # what was moved are copies
        running.mean.copy_(addresses["running_mean"])
        running.var.copy_(addresses["running_var"])


def bn_silu(z: Sequence[Tensor], norms: Sequence[Any], activation: bool, y: Tensor, residual: Tensor | None = None) -> None:
    """y = SiLU(sum over one or two maps of (z - mean) * invstd * gamma + beta), or without SiLU, + residual. All as z[0]."""
    op, like = "bn_silu", z[0]
    vectors, held = _norms(op, z, norms)
    arguments = {**_shape(op, like), "z": _all_rows(op, "z", z, like), "vectors": vectors, "activation": activation}
    added = _NONE if residual is None else _rows(op, "residual", residual, like)
    call(op, _CPU, {**arguments, "residual": added, "y": _rows(op, "y", y, like)})
    del held  # copies in another dtype, if any, lived until here


def bn_apply_table(z: Tensor, table: Sequence[Tensor], y: Tensor) -> None:
    """y: the map z as its readers see it, normalized by the rows of a table of `bn_settle`, float64 [C] each."""
    op = "bn_apply_table"
    form = {**_shape(op, z), "table": _table(op, z.shape[1], table)}
    call(op, _CPU, {**form, "z": _rows(op, "z", z, z), "y": _rows(op, "y", y, z)})


def bn_silu_backward_reduce(
    grads: Sequence[Tensor], z: Sequence[Tensor], norms: Sequence[Any], activation: bool, out: Tensor
) -> Tensor:
    """Back through SiLU: out, the gradient of the sum of normalized maps, from the sum of one to three gradients.

    out may be one of them. Returns sums by channel, float64 [1 + maps, C]: of out, and of out * (z - mean) * invstd.
    """
    op, like = "bn_silu_backward_reduce", z[0]
    vectors, held = _norms(op, z, norms)
    sums = torch.empty((1 + len(z), like.shape[1]), dtype=torch.float64)
    arguments = {**_shape(op, like), "z": _all_rows(op, "z", z, like), "vectors": vectors, "activation": activation}
    rows = {"grads": _all_rows(op, "grads", grads, like), "out": _rows(op, "out", out, like)}
    call(op, _CPU, {**arguments, **rows, "sums": sums.data_ptr()})
    del held
    return sums


def bn_silu_backward_apply(
    grad: Tensor, z: Sequence[Tensor], norms: Sequence[Any], sums: Tensor | None, total: int, out: Sequence[Tensor]
) -> None:
    """Back through BatchNorm: out, every map's gradient, from the gradient of their normalized sum, which may be one of `out`.

    sums: `bn_silu_backward_reduce`'s, over `total` pixels; None where mean and invstd are not the maps' own (inference).
    """
    op, like = "bn_silu_backward_apply", z[0]
    vectors, held = _norms(op, z, norms)
    expect(len(out) == len(z), op, "out", f"{len(z)} maps", len(out))
    if sums is not None:
        wanted = sums.shape == (1 + len(z), like.shape[1]) and sums.is_contiguous() and sums.dtype == torch.float64
        wanted = wanted and sums.is_cpu
        expect(wanted, op, "sums", f"contiguous, float64 [{1 + len(z)}, {like.shape[1]}]", f"{sums.dtype} {list(sums.shape)}")
    arguments = {**_shape(op, like), "vectors": vectors, "total": float(total)}
    arguments |= {
        "z": _all_rows(op, "z", z, like),
        "out": _all_rows(op, "out", out, like),
        "grad": _rows(op, "grad", grad, like),
    }
    call(op, _CPU, {**arguments, "sums": 0 if sums is None else sums.data_ptr()})
    del held


def _shape(operator: str, z: Tensor) -> dict[str, object]:
    """What the compiled functions are told of all maps of a call, from the first."""
    if z.dim() != 4 or z.dtype not in (torch.float32, torch.bfloat16) or not z.is_cpu:
        check(operator, torch.empty(0), {"z": (z, (None,) * 4)}, z=(torch.float32, torch.bfloat16))
    batch, channels, height, width = z.shape
    rows = batch * height * width
    expect(rows * channels > 0, operator, "z", "not empty", list(z.shape))
    return {"dtype": DTYPES[z.dtype], "rows": rows, "channels": channels}


def _rows(operator: str, name: str, tensor: Tensor, like: Tensor) -> tuple[int, int]:
    """Address and pitch of a slice that is as `like`. Raises ValueError where a pixel's channels do not lie side by side."""
    if tensor.shape != like.shape or tensor.dtype != like.dtype or tensor.device != _CPU:
        check(operator, torch.empty(0), {name: (tensor, tuple(like.shape))}, **{name: (like.dtype,)})
    return place(operator, name, tensor)


def _all_rows(operator: str, name: str, tensors: Sequence[Tensor], like: Tensor) -> list[tuple[int, int]]:
    return [_rows(operator, name, tensor, like) for tensor in tensors]


def _vector(operator: str, name: str, tensor: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """A vector of `width` channels in the dtype that the compiled functions read: itself, or a copy."""
    if tensor.shape != (width,) or tensor.device != _CPU:
        check(operator, torch.empty(0), {name: (tensor, (width,))})
    if tensor.dtype == dtype and (width == 1 or tensor.stride(0) == 1):
        return tensor
    return tensor.detach().to(dtype).contiguous()


def _norms(operator: str, z: Sequence[Tensor], norms: Sequence[Any]) -> tuple[list[tuple[int, ...]], list[Tensor]]:
    """Addresses of every map's norm's vectors, and what keeps them alive."""
    expect(1 <= len(z) <= MOST_MAPS and len(norms) == len(z), operator, "norms", "those of one or two maps", len(norms))
    addresses, held, width = [], list[Tensor](), z[0].shape[1] if z[0].dim() == 4 else 0
    for norm in norms:
        vectors = [_vector(operator, name, vector, width, dtype) for (name, dtype), vector in zip(_NORM, norm[:4], strict=True)]
        addresses.append(tuple(vector.data_ptr() for vector in vectors))
        held += vectors
    return addresses, held


def _table(operator: str, width: int, table: Sequence[Tensor]) -> tuple[int, ...]:
    """Addresses of a table's rows."""
    rows = table if not isinstance(table, Tensor) or table.dim() == 2 else ()
    expect(len(rows) == 4, operator, "table", "four rows", len(rows))
    for row in table:
        fits = row.shape == (width,) and row.dtype == torch.float64 and row.is_cpu and (width == 1 or row.stride(0) == 1)
        expect(fits, operator, "table", f"four rows, float64 [{width}]", f"{row.dtype} {list(row.shape)}")
    return tuple(row.data_ptr() for row in table)
