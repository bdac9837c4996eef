"""DFL decode of three maps at 640 pixels, 80 classes, and its gradient: Triton, torch, its compiler."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from yolov9k.ops import available, dfl_decode
from yolov9k.ops.reference.dfl_decode import dfl_decode as definition

READ, WRITTEN, SIDES, STRIDES = 144, 84, (80, 40, 20), (8, 16, 32)  # values an anchor; cells a side of each level
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
WAYS = ("triton", "reference", "compiled")


def skip_absent(way: str, device: str) -> None:
    if way == "triton" and (device == "cpu" or "triton" not in available("dfl_decode")):
        pytest.skip("Triton's kernels run on a GPU; its interpreter is not worth timing")
    if way == "compiled" and device == "cpu":
        pytest.skip("the variants differ on a GPU alone")


def draw_maps(device: str, layout: str, images: int, classes_at: float = 0.0) -> list[Tensor]:
    """Raw maps: bfloat16 on a GPU, float32 on a CPU; class logits around `classes_at`."""
    dtype, form = torch.bfloat16 if device == "cuda" else torch.float32, LAYOUTS[layout]
    maps = [torch.randn(images, READ, side, side, device=device) for side in SIDES]
    for level in maps:
        level[:, READ - 80 :] += classes_at
    return [level.to(dtype).contiguous(memory_format=form) for level in maps]


def _decode(way: str) -> Callable[[list[Tensor]], Tensor]:
    if way == "compiled":
        compiled = torch.compile(definition, dynamic=False)
        return lambda maps: compiled(maps, STRIDES, 16)
    return lambda maps: dfl_decode(maps, STRIDES, backend=way)


def bytes_of(maps: list[Tensor], values: int) -> int:
    """Of `values` of the maps' dtype for every anchor."""
    return sum(level.numel() for level in maps) // READ * values * maps[0].element_size()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("images", [1, 16])
def bench_dfl_decode(measure: Callable[..., None], device: str, way: str, layout: str, images: int) -> None:
    """From raw maps to boxes in pixels and probabilities."""
    skip_absent(way, device)
    maps, run = draw_maps(device, layout, images), _decode(way)
    measure(lambda: run(maps), device, bytes_of(maps, READ + WRITTEN))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
def bench_dfl_decode_backward(measure: Callable[..., None], device: str, way: str, layout: str) -> None:
    """Forward and back to the raw maps, which are read twice."""
    skip_absent(way, device)
    maps, run = [level.requires_grad_() for level in draw_maps(device, layout, 16 if device == "cuda" else 1)], _decode(way)
    grad = torch.ones_like(run(maps))
    moved = bytes_of(maps, READ + WRITTEN + WRITTEN + 2 * READ)
    measure(lambda: torch.autograd.grad(run(maps), maps, grad), device, moved)
