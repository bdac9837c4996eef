"""What a plan's steps call: the kernels, or a stand-in that computes nothing and counts launches and bytes."""

from __future__ import annotations

import functools
import importlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yolov9k.common.device import is_capturing, is_cuda
from yolov9k.kernels._operands import Affine, Deferred, Epilogue, Norm, Running
from yolov9k.ops.tuning import fastest


def new_map(like: Tensor, width: int, height: int, columns: int) -> Tensor:
    """An empty channels-last map [B, width, height, columns] of like's batch, dtype and device."""
    shape = (like.shape[0], width, height, columns)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


class Kernels:
    """Calls the Triton kernels, and torch's convolution where the vendor's is the fastest. Arguments as there."""

    statistics_dtype = torch.float32  # what statistics, their tables and sums are kept in
    places_dtype = torch.uint8  # what says where max_pool found the maxima

    def __init__(self) -> None:
        self._tiles: dict[Any, int] = {}  # what `tuning` said, found in a microsecond

    # Modules are imported when they are first needed: Triton takes a second, and counting needs none.
    matrix = functools.cached_property(lambda self: importlib.import_module("yolov9k.kernels.conv1x1"))
    norm = functools.cached_property(lambda self: importlib.import_module("yolov9k.kernels.conv_bn_silu"))
    pool = functools.cached_property(lambda self: importlib.import_module("yolov9k.kernels.pool"))

    def count(self, name: str, reads: Sequence[Tensor], writes: Sequence[Tensor], launches: int = 1) -> None:
        """Nothing to count where the work is done."""

    def weights(self, weights: Sequence[Tensor], like: Tensor) -> Tensor:
        """Siblings' weights as one, in the maps' dtype."""
        weight = weights[0] if len(weights) == 1 else torch.cat(list(weights))
        if weight is not weights[0] or weight.dtype != like.dtype:
            self.count("weight", weights, [weight])
        return weight.to(like.dtype)

    def dense(self, x: Tensor) -> Tensor:
        """A slice as a map of its own, for those that cannot read slices."""
        y = x.contiguous(memory_format=torch.channels_last)
        if y is not x:
            self.count("copy", [x], [y])
        return y

    def add(self, maps: Sequence[Tensor]) -> Tensor:
        """The sum of maps, two at a time."""
        total = maps[0]
        for other in maps[1:]:
            self.count("add", [total, other], [total])
            total = total + other
        return total

    def concatenate(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps side by side."""
        if len(maps) == 1:
            return maps[0]
        self.count("copy", maps, maps)
        return torch.cat(list(maps), 1)

    def clone(self, vector: Tensor) -> Tensor:
        """A tensor of its own."""
        self.count("copy of a sum", [vector], [vector])
        return vector.clone()

    def convolve(self, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> Tensor:
        z = torch.ops.aten.convolution(x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups)
        self.count("convolution", [x, weight], [z])
        return z.contiguous(memory_format=torch.channels_last)  # type: ignore[no-any-return]

    def convolve_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int, needs_x: bool
    ) -> tuple[Tensor | None, Tensor]:
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, [needs_x, True, False]
        )
        self.count("weight gradient", [grad, x], [grad_weight])
        if needs_x:
            self.count("input gradient", [grad, weight], [grad_x])
            grad_x = grad_x.contiguous(memory_format=torch.channels_last)
        return grad_x, grad_weight

    def conv1x1(
        self, x: Tensor, weight: Tensor, out: Tensor, prologue: Affine | None, statistics: bool
    ) -> tuple[Tensor | None, int]:
        run = functools.partial(self.matrix.forward, x, weight, out, prologue, statistics=statistics)
        tile = self._tile("forward", self.matrix.CONFIGS, run, (x, out), (prologue is not None, statistics))
        _, parts, rows = run(config=tile)
        return parts, rows

    def conv1x1_input_gradient(
        self, grad: Tensor, weight: Tensor, out: Tensor, addends: Sequence[Tensor], epilogue: Epilogue | None
    ) -> Tensor | None:
        run = functools.partial(self.matrix.input_gradient, grad, weight, out, addends, epilogue)
        flags = (len(addends), epilogue and epilogue.activation)
        return run(config=self._tile("input gradient", self.matrix.CONFIGS, run, (grad, out), flags))[1]  # type: ignore[no-any-return]

    def conv1x1_weight_gradient(self, grad: Tensor, x: Tensor, prologue: Affine | None) -> Tensor:
        run = functools.partial(self.matrix.weight_gradient, grad, x, prologue)
        tile = self._tile("weight gradient", self.matrix.WEIGHT_CONFIGS, run, (grad, x), (prologue is not None,))
        return run(config=tile)  # type: ignore[no-any-return]

    def _tile(self, name: str, configs: Sequence[Any], run: Any, maps: Sequence[Tensor], flags: tuple[Any, ...]) -> Any:
        """The fastest tile of a 1x1 convolution for maps of these sizes, pitches and dtype; the default one off the GPU."""
        if not is_cuda(maps[0].device):
            return None
        key = (name, str(maps[0].dtype), *((*m.shape, m.stride(3)) for m in maps), flags)
        number = self._tiles.get(key)
        if number is None:
            variants = {str(i): functools.partial(run, config=config) for i, config in enumerate(configs)}
            number = int(fastest(f"conv1x1 {name}", key, variants, maps[0].device, variants))
            if not is_capturing():
                self._tiles[key] = number
        return configs[number]

    def conv_silu(
        self, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, activation: bool, out: Tensor,
        residual: Tensor | None,
    ) -> None:  # fmt: skip
        backend = "auto" if is_cuda(x.device) else "triton"
        options = (stride, padding, groups, activation, residual, out, backend)
        torch.ops.yolov9k.conv_silu_out(x, weight, bias, *options)

    def statistics(self, z: Tensor) -> tuple[Tensor, int, Tensor | None]:
        """Partial statistics of tiles, rows a tile, and what was taken off each channel before."""
        return self.norm.partial_statistics(z), int(self.norm.CHUNK), z[0, :, 0, 0]

    def merge(
        self, parts: Tensor, rows: int, tile: int, eps: float, first: Tensor | None, running: Running | None, out: Tensor,
        deferred: Deferred | None,
    ) -> None:  # fmt: skip
        self.norm.merge_statistics(parts, rows, tile, eps, first, running, out, deferred)

    def normalize(
        self, z: Sequence[Tensor], norms: Sequence[Norm], activation: bool, y: Tensor, residual: Tensor | None
    ) -> None:
        self.norm.normalize(z, norms, activation, y, residual)

    def bn_silu_backward_reduce(
        self, grads: Sequence[Tensor], z: Sequence[Tensor], norms: Sequence[Norm], activation: bool, out: Tensor
    ) -> tuple[Tensor, Sequence[Tensor], bool]:
        """Sums, and what `bn_silu_backward_apply` is given for grads and activation; out may be used in between."""
        return self.norm.bn_silu_backward_reduce(grads, z, norms, activation), grads, activation

    def bn_silu_backward_apply(
        self, grads: Sequence[Tensor], z: Sequence[Tensor], norms: Sequence[Norm], activation: bool, sums: Tensor | None,
        out: Sequence[Tensor], count: int,
    ) -> None:  # fmt: skip
        self.norm.bn_silu_backward_apply(grads, z, norms, activation, sums, out, count)

    def sum_parts(self, parts: Tensor) -> Tensor:
        """Partial sums [n, tiles, C] to [n, C]."""
        return parts.sum(1)

    def avg_pool(self, x: Tensor, out: Tensor) -> None:
        self.pool.avg_pool(x, out)

    def avg_pool_backward(self, grad: Tensor, out: Tensor) -> None:
        self.pool.avg_pool_backward(grad, out)

    def max_pool(self, x: Tensor, kernel: int, stride: int, padding: int, out: Tensor) -> Tensor:
        return self.pool.max_pool(x, kernel, stride, padding, out)[1]  # type: ignore[no-any-return]

    def max_pool_backward(
        self, grad: Tensor, places: Tensor, kernel: int, stride: int, padding: int, out: Tensor, addend: Tensor | None
    ) -> None:
        size = (out.shape[2], out.shape[3])
        self.pool.max_pool_backward(grad, places, size, kernel, stride, padding, out, addend)


class CountingKernels(Kernels):
    """Computes nothing: results have the kernels' shapes, and every launch is counted with the bytes that it moves."""

    TILE = 128  # rows a tile; what the partial results' own few bytes are counted by

    def __init__(self, like: Kernels | None = None) -> None:
        """like: the kernels whose results' dtypes these have; the Triton ones' without."""
        self.launches: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        if like is not None:
            self.statistics_dtype, self.places_dtype = like.statistics_dtype, like.places_dtype

    def count(self, name: str, reads: Sequence[Tensor], writes: Sequence[Tensor], launches: int = 1) -> None:
        """Note `launches` that read and write these tensors once."""
        self.launches[name] += launches
        self.bytes[name] += sum(tensor.numel() * tensor.element_size() for tensor in (*reads, *writes))

    def _parts(self, like: Tensor, kinds: int, width: int) -> Tensor:
        rows = like.shape[0] * like.shape[2] * like.shape[3]
        return like.new_empty((kinds, -(-rows // self.TILE), width), dtype=self.statistics_dtype)

    def conv1x1(self, x: Tensor, weight: Tensor, out: Tensor, prologue: Any, statistics: bool) -> tuple[Tensor | None, int]:
        self.count("conv1x1", [x, weight], [out])
        return self._parts(out, 2, out.shape[1]) if statistics else None, self.TILE

    def conv1x1_input_gradient(
        self, grad: Tensor, weight: Tensor, out: Tensor, addends: Sequence[Tensor], epilogue: Any
    ) -> Tensor | None:
        self.count("conv1x1 input gradient", [grad, weight, *addends, *([epilogue.z] if epilogue else [])], [out])
        return self._parts(out, 2, out.shape[1]) if epilogue else None

    def conv1x1_weight_gradient(self, grad: Tensor, x: Tensor, prologue: Any) -> Tensor:
        grad_weight = grad.new_empty((grad.shape[1], x.shape[1]), dtype=torch.float32)
        self.count("conv1x1 weight gradient", [grad, x], [grad_weight], 2)
        return grad_weight

    def conv_silu(
        self, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, activation: bool, out: Tensor,
        residual: Tensor | None,
    ) -> None:  # fmt: skip
        self.count("convolution, bias, SiLU", [x, weight, *([] if residual is None else [residual])], [out])

    def statistics(self, z: Tensor) -> tuple[Tensor, int, Tensor | None]:
        parts = self._parts(z, 2, z.shape[1])
        self.count("statistics", [z], [parts])
        return parts, self.TILE, z[0, :, 0, 0]

    def merge(
        self, parts: Tensor, rows: int, tile: int, eps: float, first: Any, running: Any, out: Tensor, deferred: Any
    ) -> None:
        self.count("merge statistics", [parts], [out])

    def normalize(self, z: Sequence[Tensor], norms: Any, activation: bool, y: Tensor, residual: Tensor | None) -> None:
        self.count("normalize", [*z, *([] if residual is None else [residual])], [y])

    def bn_silu_backward_reduce(
        self, grads: Sequence[Tensor], z: Sequence[Tensor], norms: Any, activation: bool, out: Tensor
    ) -> tuple[Tensor, Sequence[Tensor], bool]:
        self.count("bn_silu backward, reduce", [*grads, *z], [], 2)
        return z[0].new_empty((1 + len(z), z[0].shape[1]), dtype=self.statistics_dtype), grads, activation

    def bn_silu_backward_apply(
        self, grads: Sequence[Tensor], z: Sequence[Tensor], norms: Any, activation: bool, sums: Tensor | None,
        out: Sequence[Tensor], count: int,
    ) -> None:  # fmt: skip
        self.count("bn_silu backward, apply", [*grads, *z], out)

    def sum_parts(self, parts: Tensor) -> Tensor:
        self.count("sum of parts", [parts], [])
        return parts.sum(1)

    def avg_pool(self, x: Tensor, out: Tensor) -> None:
        self.count("avg_pool", [x], [out])

    def avg_pool_backward(self, grad: Tensor, out: Tensor) -> None:
        self.count("avg_pool gradient", [grad], [out])

    def max_pool(self, x: Tensor, kernel: int, stride: int, padding: int, out: Tensor) -> Tensor:
        places = torch.empty_like(out, dtype=self.places_dtype)
        self.count("max_pool", [x], [out, places])
        return places

    def max_pool_backward(
        self, grad: Tensor, places: Tensor, kernel: int, stride: int, padding: int, out: Tensor, addend: Tensor | None
    ) -> None:
        self.count("max_pool gradient", [grad, places, *([] if addend is None else [addend])], [out])
