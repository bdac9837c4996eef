"""The detection loss with its gradient at 640 pixels, 80 classes: one pass of a kernel, autograd over it, plain torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from yolov9k.losses import DetectionLoss
from yolov9k.ops import available

CHANNELS, SIDES = 144, (80, 40, 20)
VARIANTS = ("one pass", "triton", "cpu", "reference")


def random_case(images: int, boxes: int, branches: int, device: str) -> tuple[list[list[Tensor]], tuple[Tensor, Tensor]]:
    """Raw maps of each branch, and `boxes` boxes an image; bfloat16 on a GPU, float32 on a CPU."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shapes = [(images, CHANNELS, side, side) for side in SIDES]
    maps = [[torch.randn(shape, device=device).to(dtype) for shape in shapes] for _ in range(branches)]
    maps = [[m.contiguous(memory_format=torch.channels_last).requires_grad_() for m in branch] for branch in maps]
    labels = torch.randint(0, 80, (images, boxes, 1)).float()
    rows = torch.cat((labels, 0.2 + 0.6 * torch.rand(images, boxes, 2), 0.02 + 0.3 * torch.rand(images, boxes, 2)), -1)
    return maps, (rows.to(device), torch.full((images,), boxes, device=device))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("images", [1, 16])
def bench_loss(measure: Callable[..., None], device: str, images: int, branches: int, variant: str) -> None:
    """Assignment, loss and the gradient of every raw map; 20 boxes an image."""
    backend = {"one pass": "triton" if device == "cuda" else "cpu"}.get(variant, variant)
    if backend not in available("detection_loss") or backend == ("cpu" if device == "cuda" else "triton"):
        pytest.skip(f"{backend} does not run here, or is not worth timing")
    maps, targets = random_case(images, 20, branches, device)
    loss = DetectionLoss(80, backend=backend)

    def run() -> None:
        for branch in maps:
            for level in branch:
                level.grad = None
        if variant == "one pass":
            loss.backward(maps, targets)
        else:
            loss(maps, targets)[0].backward()

    moved = 2 * branches * sum(level.numel() * level.element_size() for level in maps[0])
    measure(run, device, moved, 20 if device == "cuda" else 3)
