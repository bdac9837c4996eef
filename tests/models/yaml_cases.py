"""Rows of small model files, which tests change one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = list[Any]
# Layers 3, 4, 5 have strides 8, 16, 32; 9 and 10 fuse them.
BACKBONE: list[Row] = [
    [-1, 1, "Conv", [8, 3, 2]],
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "RepNCSPELAN4", [16, 16, 8, 1]],
    [-1, 1, "ADown", [16]],
    [-1, 1, "AConv", [24]],
    [-1, 1, "Conv", [32, 3, 2]],
]
NECK: list[Row] = [
    [-1, 1, "SPPELAN", [32, 16]],
    [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
    [[-1, 4], 1, "Concat", [1]],
    [-1, 1, "ELAN1", [24, 16, 8]],
]
# The layers of yolov9-s as published, widths doubled.
S_BACKBONE: list[Row] = [
    [-1, 1, "Conv", [64, 3, 2]],
    [-1, 1, "Conv", [128, 3, 2]],
    [-1, 1, "ELAN1", [128, 64, 32]],
    [-1, 1, "AConv", [256]],
    [-1, 1, "RepNCSPELAN4", [256, 128, 64, 3]],
    [-1, 1, "AConv", [384]],
    [-1, 1, "RepNCSPELAN4", [384, 192, 96, 3]],
    [-1, 1, "AConv", [512]],
    [-1, 1, "RepNCSPELAN4", [512, 256, 128, 3]],
]


def s_top_down(first: int) -> list[Row]:
    return [
        [first, 1, "SPPELAN", [512, 128]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 6], 1, "Concat", [1]],
        [-1, 1, "RepNCSPELAN4", [384, 192, 96, 3]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 4], 1, "Concat", [1]],
        [-1, 1, "RepNCSPELAN4", [256, 128, 64, 3]],
    ]


S_NECK: list[Row] = [
    *s_top_down(-1),
    [-1, 1, "AConv", [192]],
    [[-1, 12], 1, "Concat", [1]],
    [-1, 1, "RepNCSPELAN4", [384, 192, 96, 3]],
    [-1, 1, "AConv", [256]],
    [[-1, 9], 1, "Concat", [1]],
    [-1, 1, "RepNCSPELAN4", [512, 256, 128, 3]],
]
S_HEADS: dict[str, list[Row]] = {
    "gelan-s": [*S_NECK, [[15, 18, 21], 1, "DDetect", ["nc"]]],
    "yolov9-s": [*S_NECK, *s_top_down(8), [[28, 25, 22, 15, 18, 21], 1, "DualDDetect", ["nc"]]],
}

Write = Callable[..., Path]
