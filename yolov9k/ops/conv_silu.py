"""Convolution with bias, SiLU and a residual, for fused inference: the fastest measured variant for each shape.

On a GPU "auto" measures torch's convolution followed by SiLU, Triton's tiles and, where its probe says yes, cuDNN's own fusion
when a shape is met for the first time, and remembers the winner (`ops/tuning.py`). None is wired in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from yolov9k.common.checks import expect, expect_device, expect_float, expect_shape
from yolov9k.common.device import is_capturing, is_cuda, on_device
from yolov9k.ops import cudnn
from yolov9k.ops.backends import choose
from yolov9k.ops.library import define
from yolov9k.ops.reference import conv_silu as reference
from yolov9k.ops.registry import Operator, register
from yolov9k.ops.tuning import fastest

_OP = "conv_silu"
Variant = Callable[..., None]  # takes the operator's arguments, `out` last, and writes to it
_chosen: dict[tuple[Any, ...], Variant] = {}  # what `fastest` said in this process, found without asking again


def conv_silu(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int = 1, activation: bool = True,
    out: Tensor | None = None, residual: Tensor | None = None, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """SiLU(conv(x) + bias) + residual, without SiLU where `activation` is off; for inference alone.

    x: [B, C, H, W], floating; weight [N, C / groups, k, k], bias [N], residual and out [B, N, H', W'], all of x's dtype; out
    may be a slice of channels of a wider channels-last map, and shares no memory with x. backend: as elsewhere, or "cudnn".
    Returns out, or a new map (channels-last from every backend but the reference). Raises ValueError or TypeError naming the
    argument, RuntimeError where a gradient is asked for or a backend is not there.
    """
    shape = _check(x, weight, bias, stride, padding, groups, out, residual)
    backend = _backend(backend, x)
    if out is None and backend == "reference":
        return torch.ops.yolov9k.conv_silu(x, weight, bias, stride, padding, groups, activation, residual)  # type: ignore[no-any-return]
    if out is None:
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    torch.ops.yolov9k.conv_silu_out(x, weight, bias, stride, padding, groups, activation, residual, out, backend)
    return out


def _check(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, out: Tensor | None, residual: Tensor | None
) -> tuple[int, int, int, int]:
    """The result's shape. Raises what `conv_silu` says."""
    expect_float(x, _OP, "x")
    expect_shape(x, (None, None, None, None), _OP, "x")
    expect(stride >= 1, _OP, "stride", "at least 1", stride)
    expect(padding >= 0, _OP, "padding", "at least 0", padding)
    expect(groups >= 1 and x.shape[1] % groups == 0, _OP, "groups", f"a divisor of {x.shape[1]} channels", groups)
    expect_shape(weight, (None, None, None, None), _OP, "weight")
    kernel = weight.shape[-1]
    expect_shape(weight, (None, x.shape[1] // groups, kernel, kernel), _OP, "weight")
    width = weight.shape[0]
    expect(width % groups == 0, _OP, "groups", f"a divisor of {width} channels", groups)
    expect_shape(bias, (width,), _OP, "bias")
    height, columns = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[2:])
    expect(height > 0 and columns > 0, _OP, "x", f"no smaller than the kernel of {kernel}", list(x.shape))
    shape = (x.shape[0], width, height, columns)
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias), ("residual", residual), ("out", out)):
        if tensor is None:
            continue
        if tensor.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(f"{_OP}: {name} requires a gradient, and inference has none; call it under torch.no_grad()")
        expect_device(tensor, x, _OP, name)
        if tensor.dtype != x.dtype:
            raise TypeError(f"{_OP}: {name} must be {x.dtype} as x, got {tensor.dtype}")
        if name in ("residual", "out"):
            expect_shape(tensor, shape, _OP, name)
    return shape


def _backend(backend: str, x: Tensor) -> str:
    """One of "reference", "triton", "cudnn", or "auto" where it is to be measured."""
    if backend == "cudnn":
        reason = cudnn.why_missing(x.dtype) if is_cuda(x.device) else f"it takes tensors on cuda, got {x.device}"
        if reason:
            raise RuntimeError(f"{_OP}: backend 'cudnn' is not here: {reason}")
        return backend
    found = choose(_OP, backend, x.device, x.dtype == torch.float64)
    return "auto" if backend == "auto" and found != "reference" else found


def _torch(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, activation: bool,
    residual: Tensor | None, out: Tensor,
) -> None:  # fmt: skip
    """torch's convolution (cuDNN's, on a GPU), SiLU in place, and what else is asked for."""
    out.copy_(reference.conv_silu(x, weight, bias, stride, padding, groups, activation, residual))


def _triton(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, activation: bool,
    residual: Tensor | None, out: Tensor, tile: int | None = None,
) -> None:  # fmt: skip
    """A product of matrices where the convolution is one, else the implicit product; `tile`: which of the kernel's CONFIGS."""
    from yolov9k.kernels import conv1x1  # Triton takes a second to import
    from yolov9k.kernels import conv_silu as kernel

    if _is_matrix(weight, stride, padding, groups, residual):
        config = None if tile is None else conv1x1.CONFIGS[tile]
        conv1x1.forward(x, weight, out, bias=bias, activation=activation, config=config)
        return
    config = None if tile is None else kernel.CONFIGS[tile]
    kernel.conv_silu(x, weight, bias, stride, padding, groups, activation, out, residual, config)


def _cudnn(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, activation: bool,
    residual: Tensor | None, out: Tensor,
) -> None:  # fmt: skip
    weight = weight.contiguous(memory_format=torch.channels_last)
    cudnn.conv_silu(x, weight, bias, stride, padding, activation, out, residual)


_VARIANTS: dict[str, Variant] = {"reference": _torch, "triton": _triton, "cudnn": _cudnn}


def _is_matrix(weight: Tensor, stride: int, padding: int, groups: int, residual: Tensor | None) -> bool:
    return (weight.shape[2], stride, padding, groups) == (1, 1, 0, 1) and residual is None


def _candidates(x: Tensor, weight: Tensor, window: tuple[int, int, int], residual: Tensor | None) -> dict[str, Variant]:
    """What is measured; torch first, which is taken where nothing can be. window: stride, padding, groups."""
    from yolov9k.kernels import conv1x1
    from yolov9k.kernels import conv_silu as kernel

    tiles = conv1x1.CONFIGS if _is_matrix(weight, *window, residual) else kernel.CONFIGS
    narrowest = min(tile.columns for tile in tiles)
    variants: dict[str, Variant] = {"torch": _torch}
    for number, tile in enumerate(tiles):
        if tile.columns < max(2 * weight.shape[0] // window[2], narrowest + 1):  # a wider one would be mostly idle
            variants[f"triton {'x'.join(map(str, tile))}"] = functools.partial(_triton, tile=number)
    if is_cuda(x.device) and not cudnn.why_missing(x.dtype):
        variants["cudnn"] = _cudnn
    return variants


def _fastest(x: Tensor, weight: Tensor, bias: Tensor, *options: Any) -> Variant:
    """The fastest variant for tensors of these shapes and layouts. `options`: the operator's other arguments, residual, out."""
    *numbers, residual, out = options
    layouts = tuple(None if t is None else (tuple(t.shape), t.stride()) for t in (x, weight, residual, out))
    key = (str(x.dtype), layouts, tuple(numbers), cudnn.is_aligned((x, weight, bias, residual, out)))
    if (x.device, key) in _chosen:
        return _chosen[x.device, key]
    with on_device(x.device):
        if is_capturing():
            return _torch  # nothing can be measured, nor a graph of cuDNN's built, while another is captured
        variants = _candidates(x, weight, (numbers[0], numbers[1], numbers[2]), residual)
        # Measured into a map of its own: `out` may hold what is still to be read, the residual for one.
        scratch = torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device=out.device)
        runs = {
            name: functools.partial(variant, x, weight, bias, *numbers, residual, scratch) for name, variant in variants.items()
        }
        tiles = [name for name in runs if name.startswith("triton")]
        name = fastest(_OP, [*key, cudnn.frontend_version()], runs, x.device, tiles)
    return _chosen.setdefault((x.device, key), variants[name])


def _forward_out(x: Tensor, weight: Tensor, bias: Tensor, *options: Any) -> None:
    *arguments, backend = options
    if arguments[-1].numel():
        variant = _fastest(x, weight, bias, *arguments) if backend == "auto" else _VARIANTS[backend]
        variant(x, weight, bias, *arguments)


def _fake_out(x: Tensor, weight: Tensor, bias: Tensor, *options: Any) -> None:
    """Writes to a tensor whose shape is known."""


_ARGUMENTS = "Tensor x, Tensor weight, Tensor bias, int stride, int padding, int groups, bool activation, Tensor? residual"
define(f"conv_silu({_ARGUMENTS}) -> Tensor", reference.conv_silu, reference.conv_silu)
define(f"conv_silu_out({_ARGUMENTS}, Tensor(a!) out, str backend) -> ()", _forward_out, _fake_out)
register(
    Operator(
        "conv_silu",
        conv_silu,
        "convolution, bias, SiLU, residual of fused inference",
        {"triton": "measured against torch's convolution and, with `pip install -e '.[cudnn]'`, cuDNN's own fusion"},
        kernels=("conv_silu", "conv1x1"),
    )
)
