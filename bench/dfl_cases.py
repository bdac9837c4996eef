"""Raw maps of the head for the benchmarks of their decoding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from yolov9k.ops import available

READ, WRITTEN, SIDES, STRIDES = 144, 84, (80, 40, 20), (8, 16, 32)  # values an anchor; cells a side of each level


LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def skip_absent(variant: str, device: str) -> None:
    if variant == "triton" and (device == "cpu" or "triton" not in available("dfl_decode")):
        pytest.skip("Triton's kernels run on a GPU; its interpreter is not worth timing")
    if variant == "compiled" and device == "cpu":
        pytest.skip("the ways differ on a GPU alone")


def draw_maps(device: str, layout: str, images: int, classes_at: float = 0.0) -> list[Tensor]:
    """Raw maps: bfloat16 on a GPU, float32 on a CPU; class logits around `classes_at`."""
    dtype, form = torch.bfloat16 if device == "cuda" else torch.float32, LAYOUTS[layout]
    maps = [torch.randn(images, READ, side, side, device=device) for side in SIDES]
    for level in maps:
        level[:, READ - 80 :] += classes_at
    return [level.to(dtype).contiguous(memory_format=form) for level in maps]


def bytes_of(maps: list[Tensor], values: int) -> int:
    """Of `values` of the maps' dtype for every anchor."""
    return sum(level.numel() for level in maps) // READ * values * maps[0].element_size()
