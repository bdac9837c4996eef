"""Convolution, BatchNorm and SiLU of training at shapes of yolov9-c and -t, 640 px, batch 16: Triton, torch and its compiler.

Bytes are those that the fused kernels have to move, whichever way is timed, so that shares of the copy bandwidth compare:
passes over the maps where a kernel stands alone, else the plan's own count. A processor runs torch's way once, on less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolov9k import native
from yolov9k.models.block import Block
from yolov9k.models.blocks import ELAN1, SPPELAN, AConv, ADown, Conv, RepNCSPELAN4
from yolov9k.ops import available, conv_bn_silu
from yolov9k.ops.plan.planned import counting

Measure = Callable[..., None]
VARIANTS = ("triton", "eager", "compiled")
PARTS = ("forward", "forward+backward")
IMAGES = 16
# channels, side: BatchNorm and SiLU alone
MAPS = [(16, 320), (32, 160), (64, 80), (256, 80), (512, 20)]
# channels, side of RepConvN's two branches; how often in c or t
DUAL = {"c": [(128, 40), (64, 80), (32, 160)], "t": [(24, 40), (16, 80), (32, 20)]}  # 8, 6, 4; 24, 18, 12
# channels in, channels out, side of 1x1 convolutions; how often
POINTWISE = {
    "c": [(256, 128, 40), (128, 64, 80), (64, 32, 160), (1024, 512, 40)],  # 16, 12, 8, 5
    "t": [(24, 24, 40), (48, 24, 40), (32, 16, 80), (256, 128, 20)],  # 24, 16, 12, 4
}
# the block's arguments, side; whether the compiler takes part too, which takes long for each
BLOCKS: list[tuple[str, type[Block], tuple[int, ...], int, bool]] = [
    ("c", RepNCSPELAN4, (256, 512, 256, 128, 1), 80, True),
    ("c", RepNCSPELAN4, (512, 512, 512, 256, 1), 40, False),
    ("c", ADown, (256, 256), 160, True),
    ("c", ADown, (512, 512), 80, False),
    ("c", SPPELAN, (512, 512, 256), 20, True),
    ("t", ELAN1, (32, 32, 32, 16), 160, True),
    ("t", RepNCSPELAN4, (64, 64, 64, 32, 3), 80, True),
    ("t", RepNCSPELAN4, (128, 128, 128, 64, 3), 20, False),
    ("t", AConv, (32, 64), 160, True),
    ("t", SPPELAN, (128, 128, 64), 20, False),
]


def _cases(shapes: dict[str, list[tuple[int, ...]]]) -> list[Any]:
    return [pytest.param(shape, id=f"{net}-{'x'.join(map(str, shape))}") for net in shapes for shape in shapes[net]]


def _skip_absent(variant: str, device: str) -> None:
    if device == "cpu" and variant != "eager":
        pytest.skip("the variants differ on a GPU alone")
    if variant == "triton" and "triton" not in available("conv_bn_silu"):
        pytest.skip("Triton is not here")


def _map(device: str, channels: int, side: int) -> Tensor:
    """A channels-last map: bfloat16 at batch 16 on a GPU, a small one in float32 on a processor."""
    images, side = (IMAGES, side) if device == "cuda" else (1, max(side // 8, 4))
    x = torch.randn(images, channels, side, side, device=device)
    return x.to(_dtype(device)).contiguous(memory_format=torch.channels_last)


def _dtype(device: str) -> torch.dtype:
    return torch.bfloat16 if device == "cuda" else torch.float32


def _step(module: nn.Module, x: Tensor, backward: bool) -> Callable[[], object]:
    """The module as a training step runs it: float32 weights, autocast's maps, gradients of x and of every weight."""
    wanted = [x.requires_grad_(), *module.parameters()]

    def run() -> object:
        with torch.autocast(x.device.type, x.dtype, enabled=x.is_cuda):
            y = module(x)
        return torch.autograd.grad(y, wanted, torch.ones_like(y)) if backward else y

    return run


def _torchs(module: nn.Module) -> nn.Module:
    """The same network of torch's own modules."""
    for name, child in module.named_children():
        setattr(module, name, _torchs(child))
    return nn.Sequential(module.conv, module.bn, module.act) if isinstance(module, Conv) else module


def _as(variant: str, block: Block, device: str) -> nn.Module:
    """The block as one variant runs it."""
    for module in block.modules():
        if isinstance(module, Block):
            module.backend = "triton" if variant == "triton" else "reference"
    block.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module = block if variant == "triton" else _torchs(block)
    return torch.compile(module, dynamic=False) if variant == "compiled" else module  # type: ignore[return-value]


def _cost(block: Block, x: Tensor, backward: bool) -> tuple[int, int]:
    """Bytes that the block's plan moves, and operations of its convolutions; both counted on shapes alone."""
    flops = [0]

    def note(conv: nn.Conv2d, _: object, out: Tensor) -> None:
        flops[0] += 2 * out.numel() * conv.weight[0].numel()

    shape = torch.empty_like(x, device="meta")
    with counting() as ours:
        y = _as("triton", block, "meta").to(x.dtype)(shape.requires_grad_())
        if backward:
            y.backward(torch.empty_like(y))
    for module in (twin := _as("eager", block, "meta")).modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    twin(shape)
    return sum(ours.bytes.values()), flops[0] * (3 if backward else 1)


@pytest.mark.parametrize("variant", ["triton", "eager"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("shape", MAPS, ids=str)
def bench_bn_silu(measure: Measure, device: str, variant: str, part: str, shape: tuple[int, int]) -> None:
    """A depthwise 1x1 convolution stands before it: the operator has no part without one. Its bytes are counted too."""
    _skip_absent(variant, device)
    x, channels, backward = _map(device, *shape), shape[0], part != "forward"
    conv = nn.Conv2d(channels, channels, 1, groups=channels, bias=False).to(device, x.dtype)
    bn = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03).to(device)
    grad = torch.ones_like(x)

    def run() -> None:
        y = conv_bn_silu(x, conv, bn, backend="triton") if variant == "triton" else F.silu(bn(conv(x)))
        if backward:
            y.backward(grad)

    passes = 3 + 2 + backward * (5 + 2)  # of BatchNorm and SiLU, and of the convolution
    measure(run, device, passes * x.numel() * x.element_size())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("shape", _cases(DUAL))
def bench_dual_bn_add_silu(measure: Measure, device: str, variant: str, part: str, shape: tuple[int, int]) -> None:
    """SiLU(BN(a) + BN(b)) of two convolutions' outputs: statistics, the sum, and back to both."""
    _skip_absent(variant, device)
    z = [_map(device, *shape) for _ in range(2)]
    norms = [nn.BatchNorm2d(shape[0], eps=1e-3, momentum=0.03).to(device) for _ in z]
    backward = part != "forward"
    run = _dual_triton(z, norms, backward) if variant == "triton" else _dual_torch(z, norms, backward, variant == "compiled")
    passes = 5 + 8 * backward  # statistics 2, sum 2 and 1 written; sums 3, gradients 3 and 2 written
    measure(run, device, passes * z[0].numel() * z[0].element_size())


def _dual_triton(z: Sequence[Tensor], bns: Sequence[nn.BatchNorm2d], backward: bool) -> Callable[[], object]:
    from yolov9k.kernels import conv_bn_silu as kernels
    from yolov9k.kernels._operands import Norm, Running

    grad, y, out = torch.ones_like(z[0]), torch.empty_like(z[0]), [torch.empty_like(part) for part in z]
    buffers: list[Any] = [(bn.running_mean, bn.running_var, bn.num_batches_tracked, 0.03) for bn in bns]

    def run() -> None:
        found = [kernels.batch_statistics(part, 1e-3, Running(*moved)) for part, moved in zip(z, buffers, strict=True)]
        norms = [Norm(bn.weight, bn.bias, *statistics) for bn, statistics in zip(bns, found, strict=True)]
        kernels.normalize(z, norms, True, y)
        if backward:
            sums = kernels.bn_silu_backward_reduce([grad], z, norms, True)
            kernels.bn_silu_backward_apply([grad], z, norms, True, sums, out)

    return run


def _dual_torch(z: Sequence[Tensor], bns: Sequence[nn.BatchNorm2d], backward: bool, compiled: bool) -> Callable[[], object]:
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return F.silu(bns[0](a) + bns[1](b))

    function = torch.compile(forward, dynamic=False) if compiled else forward
    wanted = [*(part.requires_grad_() for part in z), *(p for bn in bns for p in bn.parameters())]
    grad = torch.ones_like(z[0])
    if backward:
        return lambda: torch.autograd.grad(function(*z), wanted, grad)
    return lambda: function(*z)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("shape", _cases(POINTWISE))
def bench_conv1x1_bn_silu(measure: Measure, device: str, variant: str, part: str, shape: tuple[int, int, int]) -> None:
    """One 1x1 convolution with BatchNorm and SiLU; in its plan the statistics fall out of the product."""
    _skip_absent(variant, device)
    wide, width, side = shape
    x, backward = _map(device, wide, side), part != "forward"
    bytes_moved, flops = _cost(Conv(wide, width), x, backward)
    measure(_step(_as(variant, Conv(wide, width), device), x, backward), device, bytes_moved, flops=flops)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", [pytest.param(c, id=f"{c[0]}-{c[1].__name__}-{'x'.join(map(str, c[2]))}") for c in BLOCKS])
def bench_block(
    measure: Measure, device: str, variant: str, case: tuple[str, type[Block], tuple[int, ...], int, bool]
) -> None:  # fmt: skip
    """A whole block, forward and backward, as its plan."""
    _skip_absent(variant, device)
    _, kind, arguments, side, compiled = case
    if variant == "compiled" and not compiled:
        pytest.skip("one block of each kind is enough for the compiler's time")
    x = _map(device, arguments[0], side)
    bytes_moved, flops = _cost(kind(*arguments), x, True)
    measure(_step(_as(variant, kind(*arguments), device), x, True), device, bytes_moved, flops=flops)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("shape", [(16, 160), (64, 40), (128, 10)], ids=str)
def bench_bn_silu_on_cpu(measure: Measure, backend: str, part: str, shape: tuple[int, int]) -> None:
    """BatchNorm and SiLU alone, at maps of yolov9-t, 320 px, batch 4: the compiled passes, and torch's."""
    if backend not in available("conv_bn_silu") and backend != "torch":
        pytest.skip(native.why_missing())
    channels, side = shape
    z, grad = (torch.randn(4, channels, side, side).contiguous(memory_format=torch.channels_last) for _ in range(2))
    bn = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)
    wanted = (z.requires_grad_(), bn.weight, bn.bias)

    def by_torch() -> object:
        y = F.silu(bn(z))
        return torch.autograd.grad(y, wanted, grad) if part != "forward" else y

    y, grad_z = torch.empty_like(z), torch.empty_like(z)
    found = torch.empty((2, channels), dtype=torch.float64)

    @torch.no_grad()
    def by_kernel() -> object:
        mean, spread = native.bn_statistics(z)
        native.bn_settle(mean, spread, z.numel() // channels, bn.eps, found)
        norms = [(bn.weight, bn.bias, *found)]
        native.bn_silu([z], norms, True, y)
        if part != "forward":
            sums = native.bn_silu_backward_reduce([grad], [z], norms, True, grad_z)
            native.bn_silu_backward_apply(grad_z, [z], norms, sums, z.numel() // channels, [grad_z])
        return y

    passes = 3 + 5 * (part != "forward")
    measure(by_torch if backend == "torch" else by_kernel, "cpu", passes * z.numel() * z.element_size())


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("part", ["forward", "input gradient", "weight gradient"])
@pytest.mark.parametrize("shape", [(16, 40, 1), (24, 20, 1), (64, 40, 1), (64, 40, 4), (32, 10, 1)], ids=str)
def bench_conv3x3_on_cpu(measure: Measure, backend: str, part: str, shape: tuple[int, int, int]) -> None:
    """3x3 convolutions of yolov9-t, 320 px, batch 4: channels, side, groups; the direct ones, and torch's."""
    if backend == "cpu" and not native.conv3x3_serves():
        pytest.skip("compiled for processors with AVX2 and FMA, without AVX-512")
    channels, side, groups = shape
    x, grad = (torch.randn(4, channels, side, side).contiguous(memory_format=torch.channels_last) for _ in range(2))
    weight = torch.randn(channels, channels // groups, 3, 3).contiguous(memory_format=torch.channels_last)
    form = ([1, 1], [1, 1], [1, 1], False, [0, 0], groups)
    ours: dict[str, Callable[[], object]] = {
        "forward": lambda: native.conv3x3(x, weight, groups),
        "input gradient": lambda: native.conv3x3_input_gradient(grad, weight, groups),
        "weight gradient": lambda: native.conv3x3_weight_gradient(grad, x, weight, groups),
    }

    def by_torch() -> object:
        if part == "forward":
            return torch.ops.aten.convolution(x, weight, None, *form)
        wanted = [part == "input gradient", part == "weight gradient", False]
        return torch.ops.aten.convolution_backward(grad, x, weight, None, *form, wanted)

    flops = 2 * x.numel() * weight[0].numel()
    measure(ours[part] if backend == "cpu" else by_torch, "cpu", 2 * x.numel() * 4, flops=flops)
