"""What a plan's steps call on a CPU: torch's matrix products and convolutions, and the passes of csrc/conv_bn_silu.cpp between.

A 1x1 convolution is a product over slices as they lie. A value that its readers normalize is written into a map that lives
for that product alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov9k import native
from yolov9k.kernels._operands import Affine, Deferred, Epilogue, Norm, Running, as_matrix
from yolov9k.ops.plan.launches import Kernels


class HostKernels(Kernels):
    """Arguments as in `Kernels`; maps are float32 or bfloat16, statistics and sums float64."""

    statistics_dtype = torch.float64
    places_dtype = torch.int64

    def convolve(self, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> Tensor:
        if _direct(x, weight, stride, padding, groups):
            return native.conv3x3(x, weight, groups)
        return super().convolve(x, weight, stride, padding, groups)

    def convolve_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int, needs_x: bool
    ) -> tuple[Tensor | None, Tensor]:
        if not _direct(x, weight, stride, padding, groups):
            return super().convolve_backward(grad, x, weight, stride, padding, groups, needs_x)
        grad_x = native.conv3x3_input_gradient(grad, weight, groups) if needs_x else None
        return grad_x, native.conv3x3_weight_gradient(grad, x, weight, groups)

    def conv1x1(
        self, x: Tensor, weight: Tensor, out: Tensor, prologue: Affine | None, statistics: bool
    ) -> tuple[Tensor | None, int]:
        torch.mm(as_matrix(_seen(x, prologue)), weight.flatten(1).t(), out=as_matrix(out))
        return (native.bn_statistics(out)[:, None] if statistics else None), 0

    def conv1x1_input_gradient(
        self, grad: Tensor, weight: Tensor, out: Tensor, addends: Sequence[Tensor], epilogue: Epilogue | None
    ) -> Tensor | None:
        torch.mm(as_matrix(grad), weight, out=as_matrix(out))
        if epilogue is None:
            for addend in addends:
                out += addend
            return None
        sources, norm = [out, *addends], Norm(*epilogue[1:5])
        return native.bn_silu_backward_reduce(sources, [epilogue.z], [norm], epilogue.activation, out)[:, None]

    def conv1x1_weight_gradient(self, grad: Tensor, x: Tensor, prologue: Affine | None) -> Tensor:
        return as_matrix(grad).t() @ as_matrix(_seen(x, prologue))

    def statistics(self, z: Tensor) -> tuple[Tensor, int, Tensor | None]:
        return native.bn_statistics(z)[:, None], 0, None

    def merge(
        self, parts: Tensor, rows: int, tile: int, eps: float, first: Tensor | None, running: Running | None, out: Tensor,
        deferred: Deferred | None,
    ) -> None:  # fmt: skip
        native.bn_settle(parts[0, 0], parts[1, 0], rows, eps, out, running, deferred)

    def normalize(
        self, z: Sequence[Tensor], norms: Sequence[Norm], activation: bool, y: Tensor, residual: Tensor | None
    ) -> None:
        native.bn_silu(z, norms, activation, y, residual)

    def bn_silu_backward_reduce(
        self, grads: Sequence[Tensor], z: Sequence[Tensor], norms: Sequence[Norm], activation: bool, out: Tensor
    ) -> tuple[Tensor, Sequence[Tensor], bool]:
        return native.bn_silu_backward_reduce(grads, z, norms, activation, out), [out], False

    def bn_silu_backward_apply(
        self, grads: Sequence[Tensor], z: Sequence[Tensor], norms: Sequence[Norm], activation: bool, sums: Tensor | None,
        out: Sequence[Tensor], count: int,
    ) -> None:  # fmt: skip
        assert not activation  # both are done by the reduction
        native.bn_silu_backward_apply(grads[0], z, norms, sums, count, out)

    def sum_parts(self, parts: Tensor) -> Tensor:
        return parts[:, 0]

    def avg_pool(self, x: Tensor, out: Tensor) -> None:
        out.copy_(torch.ops.aten.avg_pool2d(x, [2, 2], [1, 1]))

    def avg_pool_backward(self, grad: Tensor, out: Tensor) -> None:
        grad = self.dense(grad)
        out.copy_(torch.ops.aten.avg_pool2d_backward(grad, out, [2, 2], [1, 1], [0, 0], False, True, None))

    def max_pool(self, x: Tensor, kernel: int, stride: int, padding: int, out: Tensor) -> Tensor:
        found, places = torch.ops.aten.max_pool2d_with_indices(x, [kernel] * 2, [stride] * 2, [padding] * 2)
        out.copy_(found)
        return places  # type: ignore[no-any-return]

    def max_pool_backward(
        self, grad: Tensor, places: Tensor, kernel: int, stride: int, padding: int, out: Tensor, addend: Tensor | None
    ) -> None:
        form = ([kernel] * 2, [stride] * 2, [padding] * 2, [1, 1], False)
        back = torch.ops.aten.max_pool2d_with_indices_backward(self.dense(grad), out, *form, self.dense(places))
        torch.add(back, addend, out=out) if addend is not None else out.copy_(back)


def _direct(x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> bool:
    """Whether the convolution is one of csrc/conv3x3.cpp's."""
    shape = weight.shape[2:] == (3, 3) and stride == padding == 1
    wide = shape and not (weight.shape[1] % native.LANES or weight.shape[0] // groups % native.LANES)
    return wide and x.dtype == torch.float32 and native.conv3x3_serves()


def _seen(x: Tensor, prologue: Affine | None) -> Tensor:
    """A slice as its readers see it."""
    if prologue is None:
        return x
    y = torch.empty(x.shape, dtype=x.dtype, memory_format=torch.channels_last)
    native.bn_apply_table(x, prologue, y)
    return y
