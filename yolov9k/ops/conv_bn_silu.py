"""Convolution, BatchNorm and SiLU as one operator: the network's hot path.

The backward saves the convolution's input and output only: BatchNorm and SiLU are recomputed, so SiLU's input is never kept.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from yolov9k.common.checks import expect, expect_float, expect_shape
from yolov9k.common.device import is_cpu
from yolov9k.ops.backends import choose
from yolov9k.ops.library import define, differentiate
from yolov9k.ops.plan.ir import ConvLayer, ConvSpec, Planner, Slice
from yolov9k.ops.plan.planned import planned, register_plan
from yolov9k.ops.registry import Operator, register


def conv_bn_silu(x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d, activation: bool = True, backend: str = "auto") -> Tensor:
    """SiLU(bn(conv(x))), or bn(conv(x)) with `activation` off.

    x: [B, Cin, H, W], floating. conv: square stride, padding and no bias. In training mode the batch's statistics
    normalize and bn's running ones are updated, else the running ones normalize. Returns [B, Cout, H', W'] in x's dtype
    (autocast's, under autocast), channels-last where a kernel ran. Raises ValueError or TypeError that names the argument;
    a training batch with one value a channel is refused as torch does.
    """
    expect_float(x, "conv_bn_silu", "x")
    expect_shape(x, (None, conv.in_channels, None, None), "conv_bn_silu", "x")
    _check_modules(conv, bn)
    backend = choose("conv_bn_silu", backend, x.device, x.dtype == torch.float64)
    weight = conv.weight
    if not x.is_meta and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    elif x.dtype != weight.dtype:
        raise TypeError(f"conv_bn_silu: x must be {weight.dtype} as conv.weight, got {x.dtype}")
    training = bn.training
    stride, padding = int(conv.stride[0]), int(conv.padding[0])
    if backend != "reference" and x.numel():
        layer = ConvLayer("conv", conv.out_channels, bn.eps, bn.momentum or 0.0)
        spec = ConvSpec(layer, int(conv.kernel_size[0]), stride, padding, conv.groups, activation)
        running: Any = [bn.running_mean, bn.running_var, bn.num_batches_tracked]
        name, half = _plan(conv.in_channels, spec), x.dtype == torch.float16 and backend == "cpu"
        if half:  # rare on a CPU, and nothing compiled reads it
            x, weight = x.float(), weight.float()
        y = planned(x, [weight, bn.weight, bn.bias], running, name, training, backend=backend)
        return y.half() if half else y
    mean, var = (None, None) if training else (bn.running_mean, bn.running_var)
    y, z, batch_mean, invstd = torch.ops.yolov9k.conv_bn_silu(
        x, weight, bn.weight, bn.bias, mean, var, stride, padding, conv.groups, bn.eps, activation
    )
    if training:
        _update_running(bn, batch_mean.detach(), invstd.detach(), z.numel() // z.shape[1])
    return y  # type: ignore[no-any-return]


@functools.cache
def _plan(width: int, spec: ConvSpec) -> str:
    """The plan of a lone convolution, by name."""
    p = Planner(width, fused=False)
    return register_plan(p.finish(p.conv(Slice(0, 0, width), spec)))


def _check_modules(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> None:
    """Raise ValueError for what the operator would otherwise leave out silently."""
    stride, padding = conv.stride, conv.padding
    square = isinstance(padding, tuple) and stride[0] == stride[1] and padding[0] == padding[1]
    plain = conv.bias is None and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    expect(square and plain, "conv_bn_silu", "conv", "square, zero-padded, without bias or dilation", conv)
    expect(bn.num_features == conv.out_channels, "conv_bn_silu", "bn", f"{conv.out_channels} channels wide", bn)
    whole = bn.affine and bn.track_running_stats and bn.momentum is not None
    expect(whole, "conv_bn_silu", "bn", "affine, with running statistics and a momentum", bn)


@torch.no_grad()
def _update_running(bn: nn.BatchNorm2d, mean: Tensor, invstd: Tensor, count: int) -> None:
    """Move bn's running statistics towards the batch's; the variance enters unbiased, as in torch's BatchNorm."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert bn.num_batches_tracked is not None
    assert bn.momentum is not None
    variance = (invstd.pow(-2) - bn.eps).clamp(min=0) * (count / (count - 1))
    bn.running_mean.lerp_(mean.to(bn.running_mean.dtype), bn.momentum)
    bn.running_var.lerp_(variance.to(bn.running_var.dtype), bn.momentum)
    bn.num_batches_tracked.add_(1)


def _forward(
    x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor | None, var: Tensor | None,
    stride: int, padding: int, groups: int, eps: float, activation: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    z = _convolve(x, weight, stride, padding, groups)
    if mean is None and z.numel() <= z.shape[1]:
        raise ValueError(f"conv_bn_silu: training needs more than one value per channel, got {list(z.shape)}")
    u, batch_mean, invstd = torch.ops.aten.native_batch_norm(_summable(z), gamma, beta, mean, var, mean is None, 0.0, eps)
    if mean is not None and var is not None:  # torch leaves these empty, or not, in inference, by device
        batch_mean, invstd = mean.clone(), (var + eps).rsqrt()
    y = torch.ops.aten.silu(u) if activation else u
    return torch.empty_like(z).copy_(y) if y.stride() != z.stride() else y, z, batch_mean, invstd


def _summable(z: Tensor) -> Tensor:
    """z in a layout in which torch's BatchNorm adds up precisely: on a CPU, its sums over a channels-last map are naive ones in
    float32, off by 1e-3 over 1.6 million values; over a contiguous one they are not."""
    return z.contiguous() if is_cpu(z.device) else z


def _convolve(x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    return torch.ops.aten.convolution(  # type: ignore[no-any-return]
        x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups
    )


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, z: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, invstd: Tensor,
    running_mean: Tensor | None, running_var: Tensor | None, stride: int, padding: int, groups: int, eps: float,
    activation: bool, needs_grad_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    if z.numel() == 0:  # torch's own kernel divides by the number of values, and the process ends
        grad_x = torch.zeros_like(x) if needs_grad_x else x.new_empty(0)
        return grad_x, torch.zeros_like(weight), torch.zeros_like(gamma), torch.zeros_like(beta)
    form = (running_mean, running_var, eps, activation)
    grad_z, grad_gamma, grad_beta = _back_through_torch(grad, z, gamma, beta, mean, invstd, *form)
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad_z, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, [needs_grad_x, True, False]
    )
    return grad_x if needs_grad_x else x.new_empty(0), grad_weight, grad_gamma, grad_beta


def _back_through_torch(
    grad: Tensor, z: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, invstd: Tensor, running_mean: Tensor | None,
    running_var: Tensor | None, eps: float, activation: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    z, grad, training = _summable(z), _summable(grad), running_mean is None
    if activation:
        u = torch.ops.aten.native_batch_norm(z, gamma, beta, running_mean, running_var, training, 0.0, eps)[0]
        grad = torch.ops.aten.silu_backward(grad.to(u.dtype), u)
    return torch.ops.aten.native_batch_norm_backward(  # type: ignore[no-any-return]
        grad, z, gamma, running_mean, running_var, mean, invstd, training, eps, [True, True, True]
    )


def _fake_forward(
    x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor | None, var: Tensor | None,
    stride: int, padding: int, groups: int, eps: float, activation: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    z = _convolve(x, weight, stride, padding, groups)
    return torch.empty_like(z), z, torch.empty_like(gamma), torch.empty_like(gamma)


def _fake_backward(
    grad: Tensor, x: Tensor, weight: Tensor, z: Tensor, gamma: Tensor, beta: Tensor, *options: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x = torch.empty_like(x) if options[-1] else x.new_empty(0)
    return grad_x, torch.empty_like(weight), torch.empty_like(gamma), torch.empty_like(beta)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, gamma, beta, mean, var, *ctx.options = inputs
    _, z, batch_mean, invstd = output
    ctx.save_for_backward(x, weight, z, gamma, beta, batch_mean, invstd, mean, var)
    ctx.mark_non_differentiable(z, batch_mean, invstd)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 11
    if torch.is_grad_enabled():  # autograd would go on through part of what the backward does, and be wrong
        raise RuntimeError("conv_bn_silu: has no second derivative; use the reference for create_graph=True")
    x, weight, z, gamma, beta, mean, invstd, running_mean, running_var = ctx.saved_tensors
    grads = torch.ops.yolov9k.conv_bn_silu_backward(
        grad, x, weight, z, gamma, beta, mean, invstd, running_mean, running_var, *ctx.options, ctx.needs_input_grad[0]
    )
    return (grads[0] if ctx.needs_input_grad[0] else None, *grads[1:], *(None,) * 7)


define(
    "conv_bn_silu(Tensor x, Tensor weight, Tensor gamma, Tensor beta, Tensor? mean, Tensor? var, int stride, int padding, "
    "int groups, float eps, bool activation) -> (Tensor y, Tensor z, Tensor mean, Tensor invstd)",
    _forward,
    _fake_forward,
)
define(
    "conv_bn_silu_backward(Tensor grad, Tensor x, Tensor weight, Tensor z, Tensor gamma, Tensor beta, Tensor mean, "
    "Tensor invstd, Tensor? running_mean, Tensor? running_var, int stride, int padding, int groups, float eps, "
    "bool activation, bool needs_grad_x) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
)
differentiate("conv_bn_silu", _differentiate, _save)
register(
    Operator(
        "conv_bn_silu",
        conv_bn_silu,
        "convolution, BatchNorm, SiLU of training; whole blocks as plans",
        {"triton": "forward and backward", "cpu": "forward and backward"},
        kernels=("conv_bn_silu", "conv1x1", "pool"),
    )
)
