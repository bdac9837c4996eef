"""3x3 convolutions of csrc/ on the CPU, forward and both gradients: float32, stride 1, padding 1.

Maps are [B, C, H, W] in channels-last memory, or slices of such maps' channels; weights [O, I / groups, 3, 3] in any layout;
I and O are multiples of 8 a group. Everything raises ValueError or TypeError that names the argument. Results do not depend on
the number of threads.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from yolov9k.common.checks import expect
from yolov9k.native.module import Shapes, available, call, check, loaded, place

_CPU = torch.device("cpu")
LANES = 8  # channels of a group come in this many


@functools.cache
def conv3x3_serves() -> bool:
    """Whether these convolutions are compiled and written for this processor: AVX2 and FMA, no AVX-512."""
    return available() and bool(loaded("cpu").conv3x3_serves())


def conv3x3(x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """The convolution of x [B, I, H, W], a new channels-last map [B, O, H, W]."""
    _check("conv3x3", {"x": x, "weight": weight})
    y = _map_like(x, weight.shape[0])
    maps = {"x": place("conv3x3", "x", x), "y": place("conv3x3", "y", y)}
    call("conv3x3", _CPU, {**_form("conv3x3", x, y, weight, groups), **maps})
    return y


def conv3x3_input_gradient(grad: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """The gradient of x [B, I, H, W], a new channels-last map, from that of the result, grad [B, O, H, W]."""
    op = "conv3x3_input_gradient"
    _check(op, {"grad": grad, "weight": weight})
    grad_x = _map_like(grad, weight.shape[1] * groups)
    maps = {"grad": place(op, "grad", grad), "grad_x": place(op, "grad_x", grad_x)}
    call(op, _CPU, {**_form(op, grad_x, grad, weight, groups), **maps})
    return grad_x


def conv3x3_weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """The gradient of the weight, in its layout, from grad [B, O, H, W] and x [B, I, H, W]."""
    op = "conv3x3_weight_gradient"
    _check(op, {"grad": grad, "x": x, "weight": weight})
    grad_weight = torch.empty_like(weight)
    maps = {"grad": place(op, "grad", grad), "x": place(op, "x", x)}
    call(op, _CPU, {**_form(op, x, grad, grad_weight, groups), **maps})
    return grad_weight


def _map_like(x: Tensor, channels: int) -> Tensor:
    batch, _, height, width = x.shape
    return torch.empty((batch, channels, height, width), dtype=x.dtype, memory_format=torch.channels_last)


def _check(operator: str, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError or TypeError for one that is not [*, *, *, *], float32, on the CPU."""
    if not all(t.dim() == 4 and t.is_cpu and t.dtype == torch.float32 for t in tensors.values()):
        shapes: Shapes = {name: (tensor, (None,) * 4) for name, tensor in tensors.items()}
        check(operator, torch.empty(0), shapes, **dict.fromkeys(tensors, (torch.float32,)))


def _form(operator: str, x: Tensor, y: Tensor, weight: Tensor, groups: int) -> dict[str, object]:
    """What the compiled functions are told of the shapes and of the weight."""
    batch, channels, height, width = x.shape
    out = weight.shape[0]
    expect(weight.shape[1:] == (channels // groups, 3, 3), operator, "weight", f"[*, {channels // groups}, 3, 3]", weight.shape)
    expect(y.shape == (batch, out, height, width), operator, "grad", f"[{batch}, {out}, {height}, {width}]", y.shape)
    step_out, step_in, down, step = weight.stride()
    expect(down == 3 * step, operator, "weight", "dense", f"strides {weight.stride()}")
    strides = (step_out, step_in, step)
    return {"shape": (batch, height, width, channels, out, groups), "weight": weight.data_ptr(), "strides": strides}
