"""DFL decode of three maps at 640 pixels, 80 classes, and its gradient: Triton, torch, its compiler."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.dfl_cases import LAYOUTS, READ, STRIDES, WRITTEN, bytes_of, draw_maps, skip_absent
from yolov9k.ops import dfl_decode
from yolov9k.ops.reference.dfl_decode import dfl_decode as definition

VARIANTS = ("triton", "reference", "compiled")


def _decode(variant: str) -> Callable[[list[Tensor]], Tensor]:
    if variant == "compiled":
        compiled = torch.compile(definition, dynamic=False)
        return lambda maps: compiled(maps, STRIDES, 16)
    return lambda maps: dfl_decode(maps, STRIDES, backend=variant)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("images", [1, 16])
def bench_dfl_decode(measure: Callable[..., None], device: str, variant: str, layout: str, images: int) -> None:
    """From raw maps to boxes in pixels and probabilities."""
    skip_absent(variant, device)
    maps, run = draw_maps(device, layout, images), _decode(variant)
    measure(lambda: run(maps), device, bytes_of(maps, READ + WRITTEN))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def bench_dfl_decode_backward(measure: Callable[..., None], device: str, variant: str, layout: str) -> None:
    """Forward and back to the raw maps, which are read twice."""
    skip_absent(variant, device)
    maps, run = [level.requires_grad_() for level in draw_maps(device, layout, 16 if device == "cuda" else 1)], _decode(variant)
    grad = torch.ones_like(run(maps))
    moved = bytes_of(maps, READ + WRITTEN + WRITTEN + 2 * READ)
    measure(lambda: torch.autograd.grad(run(maps), maps, grad), device, moved)
