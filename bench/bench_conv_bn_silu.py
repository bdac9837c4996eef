"""BatchNorm and SiLU of training, forward and backward, at maps that yolov9-t and -c have: Triton against torch's operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from yolov9k.ops import available, conv_bn_silu

SHAPES = [
    (16, 16, 320, 320),
    (16, 32, 160, 160),
    (16, 64, 80, 80),
    (16, 256, 80, 80),
    (16, 512, 20, 20),
]  # 640 pixels, batch 16
PASSES = {"forward": 3, "forward+backward": 8}  # reads and writes of a map (performance.md: 3 + 5)


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("part", PASSES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_bn_silu(measure: Callable[..., None], device: str, backend: str, part: str, shape: tuple[int, ...]) -> None:
    """A depthwise 1x1 convolution stands before it: the operator has no part without one. Its bytes are counted too."""
    if device == "cpu" or backend not in available("conv_bn_silu"):
        pytest.skip("measured on a GPU")
    channels = shape[1]
    conv = nn.Conv2d(channels, channels, 1, groups=channels, bias=False).to(device, torch.bfloat16)
    bn = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03).to(device)
    x = torch.randn(shape, device=device).bfloat16().contiguous(memory_format=torch.channels_last)
    grad, backward = torch.ones_like(x), part != "forward"

    def run() -> None:
        y = conv_bn_silu(x, conv, bn, backend=backend)
        if backward:
            y.backward(grad)

    convolution = 4 if backward else 2  # passes
    measure(run, device, (PASSES[part] + convolution) * x.numel() * x.element_size())
