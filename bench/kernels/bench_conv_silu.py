"""Convolution, bias and SiLU at shapes of fused yolov9-c and -t, 640 pixels: torch, compiled, Triton, cuDNN, the choice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from yolov9k.ops import available, conv_silu, cudnn
from yolov9k.ops.reference.conv_silu import conv_silu as reference

# channels in, channels out, kernel, stride, groups, side; how often in the network
SHAPES = {
    "c": [
        (256, 256, 3, 1, 1, 80),  # 2
        (256, 256, 3, 1, 1, 40),  # 7
        (128, 128, 3, 1, 1, 40),  # 12
        (64, 64, 3, 1, 1, 80),  # 8
        (64, 128, 3, 2, 1, 320),  # 1
        (64, 64, 3, 1, 4, 80),  # 1
        (1024, 512, 1, 1, 1, 40),  # 4
        (128, 64, 1, 1, 1, 80),  # 8
    ],
    "t": [
        (128, 128, 3, 1, 1, 80),  # 1
        (16, 16, 3, 1, 1, 80),  # 24
        (24, 24, 3, 1, 1, 40),  # 36
        (32, 32, 3, 1, 1, 20),  # 24
        (3, 16, 3, 2, 1, 640),  # 1
        (64, 64, 3, 1, 4, 80),  # 1
        (48, 24, 1, 1, 1, 40),  # 12
        (32, 16, 1, 1, 1, 80),  # 8
    ],
}
CASES = [pytest.param(shape, id=f"{net}-{'x'.join(map(str, shape))}") for net, shapes in SHAPES.items() for shape in shapes]
VARIANTS = ("eager", "compiled", "triton", "cudnn", "auto")


def _runner(variant: str, x: Tensor, weight: Tensor, bias: Tensor, window: tuple[int, int, int]) -> Callable[[], Tensor]:
    if variant in ("eager", "compiled"):
        run = reference if variant == "eager" else torch.compile(reference, dynamic=False)
        return lambda: run(x, weight, bias, *window, True)
    return lambda: conv_silu(x, weight, bias, *window, backend=variant)


def _skip_absent(variant: str, device: str) -> None:
    if device == "cpu" and variant != "eager":
        pytest.skip("the variants differ on a GPU alone")
    if variant == "triton" and "triton" not in available("conv_silu"):
        pytest.skip("Triton is not here")
    if variant == "cudnn" and (reason := cudnn.why_missing(torch.bfloat16)):
        pytest.skip(reason)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("images", [1, 16])
@pytest.mark.parametrize("shape", CASES)
def bench_conv_silu(measure: Callable[..., None], device: str, shape: tuple[int, ...], images: int, variant: str) -> None:
    """Convolution, bias and SiLU of one layer; bfloat16 on a GPU, float32 on a CPU."""
    _skip_absent(variant, device)
    wide, width, kernel, stride, groups, side = shape
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    form = {"device": device, "dtype": dtype}
    x = torch.randn(images, wide, side, side, **form).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(width, wide // groups, kernel, kernel, **form).contiguous(memory_format=torch.channels_last)
    bias = torch.randn(width, **form)
    with torch.no_grad():
        run = _runner(variant, x, weight, bias, (stride, kernel // 2, groups))
        try:
            out = run()
        except (RuntimeError, ValueError) as error:
            if variant != "cudnn":
                raise
            pytest.skip(f"cuDNN has no engine for it: {error}")  # it says which shapes it serves by trying
        moved = (x.numel() + weight.numel() + out.numel()) * x.element_size()
        measure(run, device, moved, flops=2 * out.numel() * weight[0].numel())
