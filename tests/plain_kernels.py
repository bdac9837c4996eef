"""The kernels that plans call, in plain torch of any dtype: plans can so be proven in float64, apart from the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from yolov9k.ops.plan.launches import Kernels


def column(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1)


def activated(x: Tensor, affine: Any) -> Tensor:
    if affine is None:
        return x
    u = (x - column(affine.center)) * column(affine.scale) + column(affine.shift)
    return torch.where(column(affine.active).bool(), F.silu(u), u)


def normal(z: Tensor, norm: Any) -> Tensor:
    return (z - column(norm.mean)) * column(norm.invstd)


def bn_silu_backward_gradient(grads: Sequence[Tensor], z: Sequence[Tensor], norms: Sequence[Any], activation: bool) -> Tensor:
    grad = torch.stack(list(grads)).sum(0)
    if not activation:
        return grad
    u = sum(normal(a, n) * column(n.gamma) + column(n.beta) for a, n in zip(z, norms, strict=True))
    s = torch.sigmoid(torch.as_tensor(u))
    return grad * s * (1 + u * (1 - s))


class PlainKernels(Kernels):
    """One tile a map."""

    statistics_dtype = torch.float64

    def __init__(self) -> None:
        pass

    def statistics(self, z: Tensor) -> tuple[Tensor, int, Tensor | None]:
        return self._parts(z, z[0, :, 0, 0]), 1 << 40, z[0, :, 0, 0]

    def _parts(self, z: Tensor, first: Tensor | int) -> Tensor:
        rows = z.permute(0, 2, 3, 1).flatten(0, 2) - first
        mean = rows.mean(0)
        return torch.stack((mean, (rows - mean).square().sum(0)))[:, None]

    def conv1x1(self, x: Tensor, weight: Tensor, out: Tensor, prologue: Any, statistics: bool) -> tuple[Tensor | None, int]:
        out.copy_(F.conv2d(activated(x, prologue), weight.view(*weight.shape[:2], 1, 1)))
        return (self._parts(out, 0) if statistics else None), 1 << 40

    def conv1x1_input_gradient(
        self, grad: Tensor, weight: Tensor, out: Tensor, addends: Sequence[Tensor], epilogue: Any
    ) -> Tensor | None:
        out.copy_(F.conv2d(grad, weight.t()[..., None, None]))
        for addend in addends:
            out += addend
        if epilogue is None:
            return None
        out.copy_(bn_silu_backward_gradient([out], [epilogue.z], [epilogue], epilogue.activation))
        return torch.stack([t.sum((0, 2, 3)) for t in (out, out * normal(epilogue.z, epilogue))])[:, None]

    def conv1x1_weight_gradient(self, grad: Tensor, x: Tensor, prologue: Any) -> Tensor:
        return torch.einsum("bnhw,bkhw->nk", grad, activated(x, prologue))

    def merge(
        self, parts: Tensor, rows: int, tile: int, eps: float, first: Tensor | None, running: Any, out: Tensor, deferred: Any
    ) -> None:
        assert parts.shape[1] == 1
        mean, spread = parts[0, 0] + (0 if first is None else first), parts[1, 0]
        out[0], out[1] = mean, (spread / rows + eps).rsqrt()
        if running is not None:
            running.mean.lerp_(mean.to(running.mean.dtype), running.momentum)
            running.var.lerp_((spread / (rows - 1)).to(running.var.dtype), running.momentum)
            running.batches.add_(1)
        if deferred is not None:
            rows_of_table = (out[0], out[1] * deferred.gamma, deferred.beta, torch.full_like(out[0], deferred.activation))
            deferred.table.copy_(torch.stack(rows_of_table))

    def normalize(self, z: Any, norms: Any, activation: bool, y: Tensor, residual: Tensor | None) -> None:
        u = sum(normal(a, n) * column(n.gamma) + column(n.beta) for a, n in zip(z, norms, strict=True))
        y.copy_((F.silu(torch.as_tensor(u)) if activation else u) + (0 if residual is None else residual))

    def bn_silu_backward_reduce(
        self, grads: Any, z: Any, norms: Any, activation: bool, out: Tensor | None = None
    ) -> tuple[Tensor, Any, bool]:
        g = bn_silu_backward_gradient(grads, z, norms, activation)
        parts = (g, *(g * normal(a, n) for a, n in zip(z, norms, strict=True)))
        return torch.stack([t.sum((0, 2, 3)) for t in parts]), grads, activation

    def bn_silu_backward_apply(self, grads: Any, z: Any, norms: Any, activation: bool, sums: Any, out: Any, count: int) -> None:
        g = bn_silu_backward_gradient(grads, z, norms, activation)
        for row, (a, n, target) in enumerate(zip(z, norms, out, strict=True), 1):
            centered = g if sums is None else g - column(sums[0]) / count - normal(a, n) * column(sums[row]) / count
            target.copy_(centered * column(n.gamma * n.invstd))

    def conv_silu(
        self, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, activation: bool, out: Tensor,
        residual: Tensor | None,
    ) -> None:  # fmt: skip
        z = F.conv2d(x, weight, bias, stride, padding, 1, groups)
        out.copy_((F.silu(z) if activation else z) + (0 if residual is None else residual))

    def avg_pool(self, x: Tensor, out: Tensor) -> None:
        out.copy_(F.avg_pool2d(x, 2, 1))

    def avg_pool_backward(self, grad: Tensor, out: Tensor) -> None:
        padded = F.pad(grad, (1, 1, 1, 1))
        out.copy_(F.avg_pool2d(padded, 2, 1))

    def max_pool(self, x: Tensor, kernel: int, stride: int, padding: int, out: Tensor) -> Tensor:
        found, places = F.max_pool2d(x, kernel, stride, padding, return_indices=True)
        out.copy_(found)
        return places  # of the image, not of the window: the backward below knows

    def max_pool_backward(
        self, grad: Tensor, places: Tensor, kernel: int, stride: int, padding: int, out: Tensor, addend: Tensor | None
    ) -> None:
        flat = torch.zeros_like(out, memory_format=torch.contiguous_format).flatten(2)
        flat.scatter_add_(2, places.flatten(2), grad.contiguous().flatten(2))
        out.copy_(flat.view(out.shape) + (0 if addend is None else addend))
